/** Why `up` cannot go on, in one line for whoever started it. It is printed, and `up` exits 1. */
export class UpError extends Error {
  override readonly name = "UpError";
}
