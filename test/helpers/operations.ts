/** The operations beside the generic ones: how each is asked of something made for it, by whom, and with what success. */
import type { Account, CallOptions, Json, TestApp } from "./app.ts";
import { makeForm, makePicture } from "./files.ts";

/**
 * `read` and `write`: who may do so to the object. `own`: its user alone. `users`: whoever has a token. `guests`:
 * everyone, with a good token or none. `any`: everyone, whatever the token.
 */
export type Rule = "read" | "write" | "own" | "users" | "admins" | "guests" | "any";

export interface Asked extends Omit<CallOptions, "token"> {
  path: string;
}

export interface SampleOperation {
  rule: Rule;
  /** What a success answers. */
  status: number;
  /** Makes what is asked about, of `owner`; public things are made for `read` and `write` as well. */
  ask(app: TestApp, owner: Account, isPublic: boolean): Promise<Asked>;
  /** What no public object can be asked for. */
  isPrivate?: boolean;
}

const tus = { "Tus-Resumable": "1.0.0" };
const picture = await makePicture({ width: 16, height: 16 });
const task = (app: TestApp, { token }: Account, isPublic: boolean) =>
  app.make("tasks", token, { type: "infer", prompt: "a lake", public: isPublic, webhook: "https://example.com/" });

async function upload(app: TestApp, { token }: Account): Promise<string> {
  const headers = { ...tus, "Upload-Length": String(picture.length) };
  const begun = await app.call("POST", "/api/uploads", { token, headers });
  return begun.headers.get("location") ?? "";
}

function part(path: string): Asked {
  const headers = { ...tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream" };
  return { path, headers, body: picture };
}

const plain = (path: string) => async () => ({ path });

export const operations: Record<string, SampleOperation> = {
  "GET /healthz": { rule: "any", status: 200, ask: plain("/healthz") },
  "GET /readyz": { rule: "any", status: 200, ask: plain("/readyz") },
  "GET /api/openapi.json": { rule: "any", status: 200, ask: plain("/api/openapi.json") },
  "GET /api/account": { rule: "users", status: 200, ask: plain("/api/account") },
  "PATCH /api/account": { rule: "users", status: 200, ask: async () => ({ path: "/api/account", body: {} }) },
  "POST /api/account/webhook-secret": { rule: "users", status: 201, ask: plain("/api/account/webhook-secret") },
  "GET /api/stats": { rule: "admins", status: 200, ask: plain("/api/stats") },
  "POST /api/pool/pause": { rule: "admins", status: 204, ask: plain("/api/pool/pause") },
  "POST /api/pool/resume": { rule: "admins", status: 204, ask: plain("/api/pool/resume") },
  "GET /api/tasks/{id}/why": {
    rule: "read",
    status: 200,
    ask: async (app, owner, isPublic) => ({ path: `/api/tasks/${(await task(app, owner, isPublic)).id}/why` }),
  },
  "GET /api/tasks/{id}/deliveries": {
    rule: "write",
    status: 200,
    ask: async (app, owner, isPublic) => ({ path: `/api/tasks/${(await task(app, owner, isPublic)).id}/deliveries` }),
  },
  "POST /api/tasks/{id}/deliveries/{n}/redeliver": {
    rule: "write",
    status: 202,
    async ask(app, owner, isPublic) {
      const { id } = await task(app, owner, isPublic);
      await app.call("PATCH", `/api/tasks/${id}`, { token: owner.token, body: { status: "canceled" } });
      return { path: `/api/tasks/${id}/deliveries/1/redeliver` };
    },
  },
  "GET /api/images/{id}/lineage": {
    rule: "read",
    status: 200,
    async ask(app, { token }, isPublic) {
      const { id } = await app.make("images", token, { prompt: "a lake", public: isPublic });
      return { path: `/api/images/${id}/lineage` };
    },
  },
  "GET /api/models/{id}/file": {
    rule: "read",
    status: 200,
    ask: async (app, { token }, isPublic) => ({
      path: `/api/models/${(await app.makeModel(token, { public: isPublic })).id}/file`,
    }),
  },
  "POST /api/datasets/{id}/files": {
    rule: "write",
    status: 200,
    async ask(app, { token }, isPublic) {
      const { id } = await app.make("datasets", token, { images: [], public: isPublic });
      return { path: `/api/datasets/${id}/files`, body: makeForm("a.png", picture) };
    },
  },
  "GET /api/files": { rule: "users", status: 200, ask: plain("/api/files") },
  "POST /api/files": {
    rule: "users",
    status: 201,
    ask: async () => ({ path: "/api/files", body: picture, headers: { "Content-Type": "image/png" } }),
  },
  "GET /api/files/{key}": {
    rule: "read",
    status: 200,
    async ask(app, { token }, isPublic) {
      const { url } = await app.upload(token);
      if (isPublic) await app.make("datasets", token, { images: [url], public: true });
      return { path: new URL(url).pathname };
    },
  },
  "DELETE /api/files/{key}": {
    rule: "write",
    status: 204,
    isPrivate: true, // what something public shows is in use
    ask: async (app, { token }) => ({ path: new URL((await app.upload(token)).url).pathname }),
  },
  "POST /api/files/{key}/complete": {
    rule: "own",
    status: 201,
    async ask(app, owner) {
      const path = await upload(app, owner);
      const { body, headers } = part(path);
      await app.call("PATCH", path, { token: owner.token, body, headers });
      return { path: `${path.replace("uploads", "files")}/complete` };
    },
  },
  "OPTIONS /api/uploads": { rule: "guests", status: 204, ask: plain("/api/uploads") },
  "POST /api/uploads": {
    rule: "users",
    status: 201,
    ask: async () => ({ path: "/api/uploads", headers: { ...tus, "Upload-Length": "100" } }),
  },
  "GET /api/uploads/{key}": {
    rule: "own",
    status: 200,
    ask: async (app, owner) => ({ path: await upload(app, owner) }),
  },
  "PATCH /api/uploads/{key}": { rule: "own", status: 204, ask: async (app, owner) => part(await upload(app, owner)) },
  "DELETE /api/uploads/{key}": {
    rule: "own",
    status: 204,
    ask: async (app, owner) => ({ path: await upload(app, owner), headers: tus }),
  },
};

/** What the document describes beside the generic operations. */
export function othersOf(document: Json, resources: readonly { name: string }[]): string[] {
  const generic = new Set(resources.flatMap(({ name }) => [`/api/${name}`, `/api/${name}/{id}`]));
  return Object.entries(document.paths as Record<string, object>)
    .filter(([path]) => !generic.has(path))
    .flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`));
}
