/** `deliver-webhook`: one attempt to tell a task's webhook of a change. Bears running twice: the row is claimed. */
import { z } from "zod";
import { claimDelivery, ownerOf, postpone, recordAttempt } from "../src/webhooks/deliveries.ts";
import { listSecrets } from "../src/webhooks/secrets.ts";
import { send } from "../src/webhooks/send.ts";
import type { JobDeps } from "./handler.ts";

const payloadSchema = z.object({ delivery_id: z.uuid() });
/** At once for one user in one worker: a receiver that hangs must not keep the others' messages waiting. */
const perUser = 4;

export function createDeliverWebhook({ sql, secrets, webhooks, log, stopping }: JobDeps) {
  /** When the attempts that run were begun, by user. */
  const running = new Map<number, Set<number>>();

  async function attempt(deliveryId: string, userId: number, startedAt: number): Promise<void> {
    const claimed = await claimDelivery(sql, deliveryId);
    if (!claimed) return;
    const outcome = await send(claimed, await listSecrets(sql, secrets, userId), webhooks, stopping);
    if (stopping.aborted && outcome.statusCode === null) return postpone(sql, deliveryId, 0);
    await recordAttempt(sql, claimed, outcome, Math.round(performance.now() - startedAt));
    log.debug({ deliveryId, ...outcome }, "webhook attempted");
  }

  return async (payload: unknown): Promise<void> => {
    const { delivery_id: deliveryId } = payloadSchema.parse(payload);
    const userId = await ownerOf(sql, deliveryId);
    if (userId === null) return;
    const startedAt = performance.now();
    const begun = running.get(userId) ?? new Set();
    if (begun.size >= perUser) {
      // Soon when the receiver is only busy, later the longer it has kept the others.
      const keptMs = startedAt - Math.min(...begun);
      return postpone(sql, deliveryId, 0.1 + (keptMs / 1000) * (0.5 + Math.random()));
    }
    running.set(userId, begun.add(startedAt));
    try {
      await attempt(deliveryId, userId, startedAt);
    } finally {
      begun.delete(startedAt);
      if (begun.size === 0) running.delete(userId);
    }
  };
}
