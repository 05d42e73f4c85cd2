/**
 * How a child of `up` learns that `up` has died, by kill -9 too: its standard input is a pipe that nobody writes to,
 * and the system closes it. Polling the parent's pid was rejected: it is late, and pids come back.
 */

/**
 * Calls back once, when the supervisor is gone. Does nothing for a process that was not started by `up`, whose
 * standard input may well be at its end from the start. Does not keep the process alive.
 */
export function stopWhenOrphaned(callback: () => void): void {
  if (process.env.ATELIER_SUPERVISED !== "1") return;
  let isOver = false;
  const once = () => {
    if (!isOver) callback();
    isOver = true;
  };
  process.stdin.once("end", once).once("close", once).once("error", once);
  process.stdin.resume();
  process.stdin.unref?.();
}

/** Ends the process cleanly, once, on SIGTERM and SIGINT and when its supervisor is gone. */
export function stopOnSignals(stop: () => Promise<void>): void {
  let isStopping = false;
  const end = async () => {
    if (isStopping) return;
    isStopping = true;
    await stop();
    process.exit(0);
  };
  process.on("SIGTERM", end);
  process.on("SIGINT", end);
  stopWhenOrphaned(end);
}
