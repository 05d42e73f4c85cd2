/** Waiting that the caller's signal ends. */
import { setTimeout as wait } from "node:timers/promises";
import { failure } from "./http.ts";

export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await wait(ms, undefined, { signal });
  } catch (error) {
    throw failure(error, signal);
  }
}
