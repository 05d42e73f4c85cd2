/** Many small queries of one transaction, sent without waiting for each other's answers. */

/** Aborted by another statement's error: that one says what went wrong. */
const isAborted = (error: unknown) => (error as { code?: string })?.code === "25P02";

/**
 * Runs `work` for all items at once, which on the one connection of a transaction means one after the other, without a
 * pause for the way there and back. Waits for all of them even when one fails: what still ran after the rollback would
 * run outside the transaction.
 * @throws the first error, in the items' order
 */
export async function all<T, R>(items: T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const settled = await Promise.allSettled(items.map(work));
  const errors = settled.flatMap((one) => (one.status === "rejected" ? [one.reason] : []));
  if (errors.length > 0) throw errors.find((error) => !isAborted(error)) ?? errors[0];
  return settled.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
}
