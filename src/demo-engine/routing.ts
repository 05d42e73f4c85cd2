/** What every file of routes works with. */
import type { Context } from "hono";
import type { Executor } from "./execution.ts";
import type { Faults } from "./faults.ts";
import type { EngineFiles } from "./files.ts";
import type { ValidationContext } from "./graph.ts";
import type { NodeClasses } from "./nodes.ts";
import type { PromptQueue } from "./queue.ts";

export interface RouteOptions {
  classes: NodeClasses;
  files: EngineFiles;
  queue: PromptQueue;
  executor: Executor;
  validation: ValidationContext;
  version: string;
  features: Record<string, unknown>;
  maxUploadBytes: number;
  /** Basic auth for every route, the WebSocket included; null for none, as ComfyUI itself has none. */
  login: { username: string; password: string } | null;
  /** Null when faults were not switched on. */
  faults: Faults | null;
  dropSockets: () => void;
  /** Takes over a request for `/ws`; null when it is no upgrade. */
  upgrade: (request: Request, clientId: string) => Response | null;
}

/** The body as an object, whatever its Content-Type says. */
export async function readJson(c: Context): Promise<Record<string, unknown>> {
  const body: unknown = JSON.parse(await c.req.text());
  if (typeof body !== "object" || body === null) throw new TypeError("the body is no object");
  return body as Record<string, unknown>;
}
