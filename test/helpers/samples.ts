/** One example of each resource: how to make an object, and what its POST and PATCH may carry. */
import { randomUUID } from "node:crypto";
import { type Account, type Json, password, type TestApp } from "./app.ts";

export interface Sample {
  /** Makes one that belongs to `owner`, and answers its id. */
  make(app: TestApp, who: { owner: Account; admin: Account }, isPublic: boolean): Promise<number | string>;
  /** Null where POST is not offered. */
  post: ((app: TestApp, who: { as: Account; owner: Account }) => Promise<Json>) | null;
  patch: Json;
  isRemovable: boolean;
}

const unique = (prefix: string) => `${prefix} ${randomUUID().slice(0, 8)}`;
/** An address that nothing listens at (RFC 5737), so that no test asks a stranger's machine. */
export const server = () => ({
  name: unique("server"),
  type: "infer",
  ip: `192.0.2.${1 + Math.floor(Math.random() * 254)}`,
  port: 1024 + Math.floor(Math.random() * 60_000),
});

export const samples: Record<string, Sample> = {
  users: {
    make: async (app) => (await app.signUp()).id,
    post: async () => ({ email: `${randomUUID()}@example.com`, password }),
    patch: { name: "New name" },
    isRemovable: true,
  },
  sessions: {
    make: async (app, { owner }) => (await app.logIn(owner.id)).sessionId,
    post: async (_app, { owner }) => ({ email: owner.email, password }),
    patch: { status: "active" },
    isRemovable: true,
  },
  datasets: {
    make: async (app, { owner }, isPublic) =>
      (await app.make("datasets", owner.token, { images: [], public: isPublic })).id,
    post: async () => ({ images: [] }),
    patch: { name: "New name" },
    isRemovable: true,
  },
  tags: {
    make: async (app, { owner }) => (await app.make("tags", owner.token, { name: unique("tag") })).id,
    post: async () => ({ name: unique("tag") }),
    patch: {},
    isRemovable: true,
  },
  models: {
    make: async (app, { owner }, isPublic) => (await app.makeModel(owner.token, { public: isPublic })).id,
    post: async (app, { as }) => ({ dataset_id: (await app.make("datasets", as.token, { images: [] })).id }),
    patch: { name: "New name" },
    isRemovable: true,
  },
  images: {
    make: async (app, { owner }, isPublic) =>
      (await app.make("images", owner.token, { prompt: "a lake", public: isPublic })).id,
    post: async () => ({ prompt: "a lake" }),
    patch: { name: "New name" },
    isRemovable: true,
  },
  tasks: {
    make: async (app, { owner }, isPublic) =>
      (await app.make("tasks", owner.token, { type: "infer", prompt: "a lake", public: isPublic })).id,
    post: async () => ({ type: "infer", prompt: "a lake" }),
    patch: { name: "New name" },
    isRemovable: true,
  },
  params: {
    make: async () => "image",
    post: null,
    patch: { value: {} },
    isRemovable: false,
  },
  servers: {
    make: async (app, { admin }) => (await app.make("servers", admin.token, server())).id,
    post: async () => server(),
    patch: { slots: 2 },
    isRemovable: true,
  },
};

export function sampleOf(name: string): Sample {
  const sample = samples[name];
  if (!sample) throw new Error(`test/helpers/samples.ts lacks an example of ${name}`);
  return sample;
}
