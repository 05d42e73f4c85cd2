/** The users of a chaos run: they order tasks, change their minds, and watch, and do not give up when a server dies. */

import type { Json } from "../../helpers/app.ts";
import { makePicture } from "../../helpers/files.ts";
import type { Random } from "../../helpers/random.ts";

export interface User {
  name: string;
  token: string;
  datasetId: number;
}

export interface Order {
  /** Of this run alone: a task that was made twice shows by it. */
  name: string;
  user: User;
  type: "train" | "infer";
  /** Pictures that it makes; 0 for a training. */
  count: number;
  /** The first picture's; no two pictures of a run share one, so the engines' records tell them apart. */
  seed: number;
  taskId: number;
  /** The status that the last PATCH of ours was answered with. */
  canceled: boolean;
}

const retryMs = 150;
/** Longer than any outage of a run. */
const patienceMs = 120_000;

/** What was answered in the end; dead connections, 503 and "still under way" are borne, a 500 is a bug. */
async function insist(request: () => Promise<Response>): Promise<{ status: number; body: Json }> {
  for (const deadline = Date.now() + patienceMs; Date.now() < deadline; await Bun.sleep(retryMs)) {
    const answer = await request()
      .then(async (response) => ({ response, text: await response.text() }))
      .catch(() => null);
    if (!answer) continue;
    const { response, text } = answer;
    if (response.status === 500) throw new Error(`500 from ${response.url}: ${text}`);
    if (response.status >= 500 || (response.status === 409 && response.headers.has("retry-after"))) continue;
    return { status: response.status, body: text ? JSON.parse(text) : null };
  }
  throw new Error("the API was away for too long");
}

export function createClients(url: string) {
  const ask = (method: string, path: string, token: string | null, body?: Json, key?: string) =>
    insist(() =>
      fetch(`${url}/api/${path}`, {
        method,
        signal: AbortSignal.timeout(20_000),
        headers: {
          ...(token ? { Authorization: `Bearer ${token}` } : {}),
          ...(body instanceof Uint8Array
            ? { "Content-Type": "application/octet-stream" }
            : { "Content-Type": "application/json" }),
          ...(key ? { "Idempotency-Key": key } : {}),
        },
        body: body instanceof Uint8Array ? (body as BodyInit) : body === undefined ? undefined : JSON.stringify(body),
      }),
    );
  const made = async (path: string, token: string | null, body: Json, key?: string): Promise<Json> => {
    const answer = await ask("POST", path, token, body, key);
    if (answer.status !== 201) throw new Error(`POST ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  };

  return {
    async signUp(name: string): Promise<User> {
      const credentials = { email: `${name}@example.org`, password: "a password of chaos" };
      await made("users", null, credentials, name);
      const { token } = await made("sessions", null, credentials);
      const files = await Promise.all([1, 2].map(async () => made("files", token, await makePicture())));
      const dataset = await made("datasets", token, { images: files.map((file) => file.url) }, name);
      return { name, token, datasetId: dataset.id };
    },

    /** Posts until it is accepted: under one Idempotency-Key, so that it must be made once. */
    async place(order: Order): Promise<void> {
      const { name, user, type, count, seed } = order;
      const task = await (type === "infer"
        ? made(
            "tasks",
            user.token,
            { type, name, count, seed, prompt: name, width: 64, height: 64, num_inference_steps: 6 },
            name,
          )
        : made(
            "tasks",
            user.token,
            { type, name, dataset_id: user.datasetId, epochs: 12, train: { resolution: 64, rank: 1, seed } },
            name,
          ));
      order.taskId = task.id;
    },

    async cancel(order: Order): Promise<void> {
      const { status } = await ask("PATCH", `tasks/${order.taskId}`, order.user.token, { status: "canceled" });
      order.canceled = status === 200;
    },

    get: async (path: string, token: string): Promise<Json> => (await ask("GET", path, token)).body,
  };
}

/** Plans the run's orders: many by few users and few by many, as it is in life. */
export function planOrders(users: User[], tasks: number, random: Random): Order[] {
  return Array.from({ length: tasks }, (_, index) => {
    const type = random.next() < 0.06 ? "train" : "infer";
    // The square favours the first users.
    const user = users[Math.floor(random.next() ** 2 * users.length)] as User;
    const count = type === "infer" ? random.between(1, 3) : 0;
    return { name: `order-${index}`, user, type, count, seed: 1_000 + index * 16, taskId: 0, canceled: false };
  });
}
