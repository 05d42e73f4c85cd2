/** One engine as the parts of this driver work with it. */
import type { HostFiles } from "../host-files/index.ts";
import type { HttpClient } from "../http.ts";
import type { OwnRuns } from "./runs.ts";

export interface Pace {
  /** Pause between polls at first, and what it grows to while nothing changes. */
  firstMs: number;
  mostMs: number;
  /** A run of which the engine knows nothing, while our request is still open, is gone after so long. */
  silentMs: number;
  /** A build that lets us choose no ids never shows the run: after so long, silence counts as consent. */
  acceptedMs: number;
  /** A file that was put on the host is listed within so long, or never. */
  listedMs: number;
}

export const defaultPace: Pace = { firstMs: 250, mostMs: 1_000, silentMs: 30_000, acceptedMs: 3_000, listedMs: 5_000 };

export interface Engine {
  /** The same for the same engine. */
  place: string;
  client: HttpClient;
  /** Null without access to the engine's host. */
  files: HostFiles | null;
  runs: OwnRuns;
  pace: Pace;
}
