/** Which model files lie where, and which have to go. */
import { beforeEach, expect, onTestFinished, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { comfyui } from "../../src/drivers/comfyui/index.ts";
import type { EngineModels, EngineTarget } from "../../src/drivers/driver.ts";
import { correctPlacements, evictModels, notePlacement } from "../../src/pool/placements.ts";
import { startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";

const app = await startApp();
const { sql } = app;
const { server, task, round, clear } = poolRows(sql);
const owner = await app.signUp();
const [a, b, c, d] = ["a", "b", "c", "d"].map((letter) => letter.repeat(64)) as [string, string, string, string];
const none: EngineModels = { checkpoints: [], loras: [], hypernetworks: [], embeddings: [] };

let serverId: number;
beforeEach(async () => {
  await clear();
  serverId = await server();
});

const held = async () => (await sql`select hash from placements order by hash`).map(({ hash }) => hash);
const place = (hash: string, bytes: number, age: string) =>
  sql`insert into placements values (${serverId}, ${hash}, ${bytes}, now() - ${age}::interval)`;

test("the index follows what the engine lists, however it writes the names", async () => {
  const model = await app.makeModel(owner.token);
  await notePlacement(sql, serverId, model.model_path);
  expect(await held()).toEqual([model.hash]);
  await place(a, 1, "1 hour");
  await sql`update placements set used_at = now() - interval '1 hour'`;
  await correctPlacements(sql, serverId, {
    ...none,
    loras: [`atelier\\${model.hash}.safetensors`, "other.safetensors"],
  });
  expect(await held()).toEqual([model.hash]);
  await sql`delete from placements`;
  await correctPlacements(sql, serverId, { ...none, embeddings: [`atelier/${model.hash}`, `atelier/${a}`] });
  expect(await held()).toEqual([model.hash]);
});

test("what was placed just now is not taken for gone: the engine was asked before", async () => {
  const model = await app.makeModel(owner.token);
  await notePlacement(sql, serverId, model.model_path);
  await correctPlacements(sql, serverId, none);
  expect(await held()).toEqual([model.hash]);
});

test("over the limit the least recently used go, but not what runs, nor what is not ours", async () => {
  const sharedDir = mkdtempSync(join(tmpdir(), "atelier-shared-"));
  onTestFinished(() => rmSync(sharedDir, { recursive: true }));
  const loras = join(sharedDir, "loras", "atelier");
  await mkdir(loras, { recursive: true });
  await mkdir(join(sharedDir, "checkpoints", "atelier"), { recursive: true });
  for (const hash of [a, b, c, d]) await writeFile(join(loras, `${hash}.safetensors`), "x".repeat(100));
  await writeFile(join(sharedDir, "loras", "owners.safetensors"), "x".repeat(1000));
  await place(a, 100, "4 hours");
  await place(b, 100, "3 hours");
  await place(c, 100, "2 hours");
  await place(d, 100, "1 minute");
  const model = await app.makeModel(owner.token);
  await sql`update models set hash = ${a} where id = ${model.id}`;
  await task({ user: owner.id, model: model.id });
  expect(await round()).toHaveLength(1);
  const target: EngineTarget = { host: "127.0.0.1", port: 1, tls: false, sharedDir };
  const evict = (maxBytes: number) => evictModels(sql, serverId, comfyui, target, maxBytes, AbortSignal.timeout(5_000));
  expect(await evict(400)).toBe(0);
  expect(await evict(300)).toBe(1);
  expect(await held()).toEqual([a, c, d]);
  expect(await evict(0)).toBe(1);
  expect(await held()).toEqual([a, d]);
  expect(readdirSync(loras).sort()).toEqual([`${a}.safetensors`, `${d}.safetensors`]);
  expect(readdirSync(join(sharedDir, "loras")).sort()).toEqual(["atelier", "owners.safetensors"]);
});
