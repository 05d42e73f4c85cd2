/** What the OpenAPI document says of tasks and the pool beyond their resources. */
import { describeOperation, json } from "../rest/openapi/operation.ts";
import { pageParameters } from "../rest/openapi/parameters.ts";
import { pageSchema, toJsonSchema } from "../rest/openapi/schemas.ts";
import { type Described, type Parameter, ref } from "../rest/openapi/types.ts";
import { delivery } from "./deliveries.ts";
import { stats } from "./pool.ts";
import { explanation } from "./why.ts";

const taskId: Parameter = {
  name: "id",
  in: "path",
  required: true,
  description: "Which task",
  schema: { type: "integer", minimum: 1 },
};

export function describePool(): Described {
  const tag = "pool";
  const noContent = (description: string) => ({ 204: { description } });
  const change = { tag, token: "required", isIdempotent: true } as const;
  const problems = ["invalid-query", "forbidden", "too-large", "invalid"] as const;
  return {
    tag: { name: tag, description: "How the work is shared out to the servers." },
    schemas: { Explanation: toJsonSchema(explanation, "output"), Stats: toJsonSchema(stats, "output") },
    operations: {
      "GET /api/tasks/{id}/why": describeOperation({
        id: "explainTask",
        tag: "tasks",
        summary: "Why a task does not run yet",
        description: "For whoever may see the task: counts, and no names of others.",
        token: "optional",
        parameters: [taskId],
        answers: { 200: json(ref("Explanation"), "All that keeps it, in order") },
        problems: ["invalid-query", "not-found"],
      }),
      "GET /api/stats": describeOperation({
        id: "getStats",
        tag,
        summary: "The pool in figures",
        description: "For admins.",
        token: "required",
        answers: { 200: json(ref("Stats"), "The figures of now, and of the last hour") },
        problems: ["invalid-query", "forbidden"],
      }),
      "POST /api/pool/pause": describeOperation({
        ...change,
        id: "pausePool",
        summary: "Start nothing more",
        description: "For admins. What runs goes on, and orders are taken.",
        answers: noContent("The pool is paused"),
        problems,
      }),
      "POST /api/pool/resume": describeOperation({
        ...change,
        id: "resumePool",
        summary: "Start what waits again",
        description: "For admins.",
        answers: noContent("The pool is not paused"),
        problems,
      }),
    },
  };
}

export function describeWebhooks(): Described {
  const tag = "webhooks";
  return {
    tag: {
      name: tag,
      description:
        "A task with a `webhook` posts `{type: task.<status>, timestamp, data}` there when its status becomes one of `webhook_events`, signed by the Standard Webhooks scheme (`webhook-id`, `webhook-timestamp`, `webhook-signature`). What is not answered with 2xx within ten seconds is sent again with growing pauses for three days; 410 ends that. Redirects are not followed. Messages may come twice and out of order: `webhook-id` tells the former, `data.version` the latter.",
    },
    schemas: { Delivery: toJsonSchema(delivery, "output"), DeliveryPage: pageSchema(ref("Delivery")) },
    operations: {
      "POST /api/account/webhook-secret": describeOperation({
        id: "createWebhookSecret",
        tag,
        summary: "Make the secret that one's webhooks are signed with",
        description: "Shown only here. The one before goes on signing beside it for 24 hours.",
        token: "required",
        answers: {
          201: json(
            {
              type: "object",
              properties: { secret: { type: "string", examples: ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"] } },
              required: ["secret"],
            },
            "The secret",
          ),
        },
        problems: ["invalid-query", "idempotency-key-refused", "too-large", "invalid"],
      }),
      "GET /api/tasks/{id}/deliveries": describeOperation({
        id: "listDeliveries",
        tag,
        summary: "What a task's webhook was told, and how it answered",
        description: "For the task's owner and admins. Kept for 30 days.",
        token: "required",
        parameters: [taskId, ...pageParameters],
        answers: { 200: json(ref("DeliveryPage"), "A page of deliveries, oldest first") },
        problems: ["invalid-query", "not-found", "forbidden"],
      }),
      "POST /api/tasks/{id}/deliveries/{n}/redeliver": describeOperation({
        id: "redeliver",
        tag,
        summary: "Send a delivery again",
        description: "At once, to where the task's webhook points now, under the same `webhook-id`.",
        token: "required",
        parameters: [
          taskId,
          {
            name: "n",
            in: "path",
            required: true,
            description: "Which delivery of the task",
            schema: { type: "integer", minimum: 1 },
          },
        ],
        answers: { 202: json(ref("Delivery"), "It is on its way") },
        problems: ["invalid-query", "not-found", "forbidden", "too-large", "invalid"],
        isIdempotent: true,
      }),
    },
  };
}
