/** Routes that post prompts and follow them: queue, history, interrupt. */
import { randomUUID } from "node:crypto";
import type { Hono } from "hono";
import { type Graph, validateGraph, validationError } from "./graph.ts";
import { readFault } from "./routes-faults.ts";
import { type RouteOptions, readJson } from "./routing.ts";

/** What the newer ComfyUI insists on: a UUID in lower case with hyphens. */
const canonicalUuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function addPrompts(routes: Hono, options: RouteOptions): void {
  const { queue, executor } = options;
  /** Given to prompts that name no number of their own. */
  let nextNumber = 0;

  routes.get("/prompt", (c) => c.json({ exec_info: { queue_remaining: queue.remaining } }));
  routes.post("/prompt", async (c) => {
    const body = await readJson(c);
    const refuse = (error: unknown, nodeErrors: unknown = {}) => c.json({ error, node_errors: nodeErrors }, 400);
    let number = Number(body.number);
    if (body.number === undefined) {
      number = body.front ? -nextNumber : nextNumber;
      nextNumber++;
    }
    if (Number.isNaN(number)) throw new TypeError("could not convert number to float");
    if (typeof body.prompt !== "object" || body.prompt === null) {
      return refuse(validationError("no_prompt", "No prompt provided", "No prompt provided"));
    }
    const promptId = body.prompt_id ?? randomUUID();
    // The older ComfyUI takes any text. The demo engine always refuses it: what works here shall work everywhere.
    if (typeof promptId !== "string" || !canonicalUuid.test(promptId)) {
      const details = "prompt_id must be a UUID string in canonical lowercase hyphenated form";
      return refuse(validationError("invalid_prompt_id", "prompt_id must be a valid UUID", details));
    }
    const targets = Array.isArray(body.partial_execution_targets) ? body.partial_execution_targets.map(String) : null;
    const prompt = body.prompt as Record<string, unknown>;
    const { error, nodeErrors, outputs } = validateGraph(prompt, targets, options.validation);
    if (error !== null) return refuse(error, nodeErrors);
    const extraData: Record<string, unknown> = { ...(body.extra_data as object | undefined) };
    if (body.client_id !== undefined) extraData.client_id = body.client_id;
    extraData.create_time = Date.now();
    options.faults?.order(promptId, readFault(c));
    queue.put({ number, promptId, prompt: prompt as unknown as Graph, extraData, outputs });
    return c.json({ prompt_id: promptId, number, node_errors: nodeErrors });
  });

  routes.get("/queue", (c) => c.json(queue.list()));
  routes.post("/queue", async (c) => {
    const body = await readJson(c);
    if (body.clear) queue.clearPending();
    for (const id of asList(body.delete)) queue.deletePending(String(id));
    return c.body(null, 200);
  });

  routes.get("/history", (c) => {
    const read = (name: string) => (c.req.query(name) === undefined ? null : Number(c.req.query(name)));
    return c.json(queue.listHistory(read("max_items"), read("offset")));
  });
  routes.get("/history/:id", (c) => c.json(queue.findHistory(c.req.param("id"))));
  routes.post("/history", async (c) => {
    const body = await readJson(c);
    if (body.clear) queue.clearHistory();
    for (const id of asList(body.delete)) queue.deleteHistory(String(id));
    return c.body(null, 200);
  });

  routes.post("/interrupt", async (c) => {
    // Without a body, or with one that is no JSON, whatever runs is meant.
    const body = await readJson(c).catch((): Record<string, unknown> => ({}));
    executor.interrupt(typeof body.prompt_id === "string" && body.prompt_id !== "" ? body.prompt_id : null);
    return c.body(null, 200);
  });
}

function asList(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}
