/** For whatever is read to be told; what comes later is not told any more, since something newer may have been. */
export const readingMs = 5_000;

/** Waits so long and no longer: a connection whose other end is gone answers nothing, not even an error. */
export async function inTime<T>(ms: number, work: PromiseLike<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const tooLate = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}
