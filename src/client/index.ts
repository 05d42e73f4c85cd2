/**
 * A client of the API, typed by the server's own definitions: types only, so that none of its code comes along. For
 * browsers (bundled), Bun, Deno and Node from 22.18; older Nodes need a bundle, and before 22 have to pass a WebSocket.
 *
 * ```ts
 * const client = createClient({ url: "http://localhost:3000" });
 * await client.login({ email, password });
 * const image = await client.images.create({ prompt: "a cuckoo on a branch" });
 * for await (const { object } of client.images.watch(image.id)) {
 *   console.log(object.status, object.progress);
 *   if (object.status === "success") break;
 * }
 * ```
 */
import type { z } from "zod";
import type { Registry } from "../resources/index.ts";
import type { CreatedOf, ObjectOf, PatchInput } from "../rest/infer.ts";
import type { account } from "../routes/account.ts";
import type { storedFile } from "../routes/described-files.ts";
import { send, type Transport } from "./http.ts";
import { toQuery } from "./query.ts";
import { createResource, type Options, type Page, type ResourceClient } from "./resource.ts";
import type { SocketClass } from "./watch.ts";

export { etagOf } from "./http.ts";
export { ProblemError } from "./problem-error.ts";
export type { ListOptions, Options, Page, ResourceClient, WriteOptions } from "./resource.ts";
export type { Socket, SocketClass, Watched, WatchOptions } from "./watch.ts";
export type { ListChange } from "./watch-list.ts";

export type User = ObjectOf<Registry["users"]>;
export type Session = ObjectOf<Registry["sessions"]>;
export type Dataset = ObjectOf<Registry["datasets"]>;
export type Tag = ObjectOf<Registry["tags"]>;
export type Model = ObjectOf<Registry["models"]>;
export type Image = ObjectOf<Registry["images"]>;
export type Task = ObjectOf<Registry["tasks"]>;
export type ParameterSet = ObjectOf<Registry["params"]>;
export type GpuServer = ObjectOf<Registry["servers"]>;
export type Account = ObjectOf<typeof account>;

/** As `POST /api/files` answers it. */
export type StoredFile = z.output<typeof storedFile>;

export interface ClientOptions {
  /** Where the API is: `https://atelier.example`. */
  url: string;
  token?: string | null;
  fetch?: typeof globalThis.fetch;
  WebSocket?: SocketClass;
  /** Milliseconds to wait before the nth attempt at something that the network prevented; doubling by default. */
  backoff?: (attempt: number) => number;
}

type Resources = { [N in keyof Registry]: ResourceClient<Registry[N]> };

export interface Client extends Resources {
  /** Sent with every request; `login` sets it. Null is a guest. */
  token: string | null;
  /** Logs in, and acts as that user from now on. */
  login(credentials: { email: string; password: string }, options?: Options): Promise<CreatedOf<Registry["sessions"]>>;
  /** Ends the session of the token, and is a guest from now on. */
  logout(options?: Options): Promise<void>;
  account: {
    get(options?: Options): Promise<Account>;
    /** `email` and `password` need `current_password`. */
    patch(changes: PatchInput<typeof account>, options?: Options): Promise<Account>;
  };
  files: {
    /** A picture or a .safetensors file; its URL can then be used in other objects. */
    upload(file: Blob, options?: Options): Promise<StoredFile>;
    list(
      query?: { page?: number; pageSize?: number },
      options?: Options,
    ): Promise<Page<StoredFile> & { used_bytes: number }>;
    delete(key: string, options?: Options): Promise<void>;
  };
}

/** Checked against the registry: a resource that is missing here does not compile. */
const names: Record<keyof Registry, true> = {
  users: true,
  sessions: true,
  datasets: true,
  tags: true,
  models: true,
  images: true,
  tasks: true,
  params: true,
  servers: true,
};

/** From a quarter of a second to ten, a fifth of it left to chance so that clients do not come back in step. */
const usualBackoff = (attempt: number) => Math.min(10_000, 250 * 2 ** (attempt - 1)) * (0.8 + Math.random() * 0.4);

export function createClient(options: ClientOptions): Client {
  const transport: Transport = {
    url: options.url.replace(/\/+$/, ""),
    fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
    token: options.token ?? null,
    backoff: options.backoff ?? usualBackoff,
  } as Transport;
  const socketClass = options.WebSocket ?? (globalThis.WebSocket as unknown as SocketClass | undefined);
  const resources = Object.fromEntries(
    Object.keys(names).map((name) => [name, createResource(name, transport, socketClass)]),
  ) as unknown as Resources;
  const caller: Client["account"] = {
    get: (calling) => send(transport, "GET", "/api/account", calling),
    patch: (body, calling) => send(transport, "PATCH", "/api/account", { ...calling, body }),
  };
  return {
    ...resources,
    get token() {
      return transport.token;
    },
    set token(token) {
      transport.token = token;
    },
    async login(credentials, calling) {
      const session = await resources.sessions.create(credentials, calling);
      transport.token = session.token;
      return session;
    },
    async logout(calling) {
      const { session_id } = await caller.get(calling);
      await resources.sessions.delete(session_id, calling);
      transport.token = null;
    },
    account: caller,
    files: {
      upload: (body, calling) => send(transport, "POST", "/api/files", { ...calling, body, isCreate: true }),
      list: (query = {}, calling) => send(transport, "GET", `/api/files${toQuery(query)}`, calling),
      delete: (key, calling) => send(transport, "DELETE", `/api/files/${encodeURIComponent(key)}`, calling),
    },
  };
}
