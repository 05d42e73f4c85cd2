/** The terms of a task, beside what it makes: when it has its turn, how long it may take, who is told of it. */
import { z } from "zod";
import { type Catalogue, storedSchema } from "../params/catalogue.ts";
import type { Fault } from "../problems.ts";
import type { Context, Field, Input } from "../rest/define.ts";
import { isMine } from "./common.ts";

/** The statuses whose coming can be told; what was just ordered is known to whoever ordered it. */
const events = ["ready", "waiting", "running", "success", "error", "canceled"] as const;
const usualEvents = ["success", "error", "canceled"];

export const termFields = ["priority", "start_before", "max_seconds", "webhook", "webhook_events"] as const;

export const termsShape = (catalogue: Catalogue) => ({
  priority: catalogue.schema("task", "priority"),
  start_before: z.iso
    .datetime({ offset: true })
    .nullable()
    .meta({ description: "Fails when it has not begun to run by then", examples: ["2036-01-01T00:00:00.000Z"] }),
  max_seconds: catalogue.schema("task", "max_seconds").nullable(),
  webhook: z
    .string()
    .min(1)
    .nullable()
    .meta({
      description: "Where changes of the status are posted to, signed by the Standard Webhooks scheme",
      examples: ["https://example.com/hooks/atelier"],
    }),
  webhook_events: z
    .array(z.enum(events))
    .min(1)
    .max(events.length)
    .meta({ description: "The statuses that are told", default: usualEvents }),
});

export const shownTerms = {
  priority: { schema: storedSchema("task", "priority") },
  start_before: { schema: z.iso.datetime().nullable() },
  max_seconds: { schema: z.int().nullable() },
  webhook: {
    schema: z.string().nullable(),
    select: (context) => context.sql`case when ${isMine(context)} then t.webhook end`,
  },
  webhook_events: {
    schema: z.array(z.enum(events)).nullable(),
    select: (context) => context.sql`case when ${isMine(context)} then t.webhook_events end`,
  },
} satisfies Record<string, Field>;

/** Replaces the webhook by its canonical form. */
export function checkTerms({ webhooks }: Context, input: Input, faults: Fault[]): void {
  if (typeof input.start_before === "string" && Date.parse(input.start_before) <= Date.now()) {
    faults.push({ pointer: "/start_before", detail: "must lie in the future" });
  }
  if (typeof input.webhook === "string") {
    const judged = webhooks.judge(input.webhook);
    if ("fault" in judged) faults.push({ pointer: "/webhook", detail: judged.fault });
    else input.webhook = judged.url;
  }
  if (Array.isArray(input.webhook_events)) input.webhook_events = [...new Set(input.webhook_events)];
}

/** The terms as columns, all of them, with the defaults in force. */
export function toTerms({ catalogue }: Context, input: Input) {
  const { priority, start_before, max_seconds, webhook, webhook_events } = input as Partial<Terms>;
  const defaultOf = (field: string) => catalogue.get("task", field).default as number | undefined;
  return {
    priority: priority ?? defaultOf("priority") ?? 0,
    start_before: start_before ?? null,
    max_seconds: max_seconds === undefined ? (defaultOf("max_seconds") ?? null) : max_seconds,
    webhook: webhook ?? null,
    webhook_events: webhook_events ?? usualEvents,
  } satisfies Terms;
}

interface Terms {
  priority: number;
  start_before: string | null;
  max_seconds: number | null;
  webhook: string | null;
  webhook_events: string[];
}

/** What a caller wrote of the work itself. */
export function withoutTerms(input: Input): Input {
  return Object.fromEntries(Object.entries(input).filter(([name]) => !termFields.includes(name as never)));
}
