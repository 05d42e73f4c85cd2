/** The endpoint `/faults` of an engine that was started with them, and what they do to requests. */
import type { Context, Hono, MiddlewareHandler } from "hono";
import { z } from "zod";
import { type Fault, type Faults, faultSchema } from "./faults.ts";
import { readJson } from "./routing.ts";

const several = z.union([z.array(faultSchema), faultSchema.transform((fault) => [fault])]);

export function addFaults(routes: Hono, faults: Faults): void {
  const state = () => ({ armed: faults.list, computed: Object.fromEntries(faults.computed) });
  routes.get("/faults", (c) => c.json(state()));
  routes.post("/faults", async (c) => {
    const asked = several.safeParse(await readJson(c));
    if (!asked.success) return c.json({ error: z.prettifyError(asked.error) }, 400);
    faults.arm(asked.data);
    return c.json(state());
  });
  routes.delete("/faults", (c) => {
    faults.clear();
    return c.json(state());
  });
}

/** `X-Fault: hang`, or with its settings as JSON: `X-Fault: {"kind":"hang","step":3}`. Null when there is none. */
export function readFault(c: Context): Fault | null {
  const text = c.req.header("x-fault");
  if (text === undefined) return null;
  return faultSchema.parse(text.trimStart().startsWith("{") ? JSON.parse(text) : { kind: text.trim() });
}

/** @param dropSockets breaks off every WebSocket */
export function faulty(faults: Faults, dropSockets: () => void): MiddlewareHandler {
  return async (c, next) => {
    const path = c.req.path.replace(/^\/api(?=\/)/, "");
    if (path === "/faults") return next();
    const struck = faults.forRequest(path, readFault(c));
    const find = (kind: Fault["kind"]) => struck.find((fault) => fault.kind === kind);
    const late = find("late");
    if (late) await new Promise((resolve) => setTimeout(resolve, late.ms));
    if (find("drop-socket")) dropSockets();
    const refusal = find("refuse") ?? find("error");
    if (refusal)
      return c.body("a fault that was asked for", (refusal.status ?? (refusal.kind === "refuse" ? 503 : 500)) as 500);
    await next();
    if (find("drop")) c.res = brokenOff();
  };
}

/** Breaks off in the midst of the body: without a reason, or the runtime reports it as a fault of ours. */
function brokenOff(): Response {
  const body = new ReadableStream({
    start: (controller) => controller.enqueue(new Uint8Array(1)),
    pull: (controller) => controller.error(),
  });
  return new Response(body);
}
