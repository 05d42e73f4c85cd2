/**
 * A data set from its upload to its end: brought in as a ZIP, trained on and deleted, and nothing of it is left.
 * `DATASET_PICTURES=500` makes it a large one; with the S3_* variables of an empty bucket it lies there.
 */
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { ZipFile } from "yazl";
import { readConfig } from "../../src/config.ts";
import type { Json } from "../helpers/app.ts";
import { startPool } from "../helpers/pool.ts";
import { eventually } from "../helpers/socket.ts";

const count = Number(process.env.DATASET_PICTURES ?? 12);
const minutes = 1 + Math.ceil(count / 20);
const { s3 } = readConfig(process.env);
const pool = await startPool({ engines: [{ name: "trainer", type: "train" }], config: { s3 } });
const drawings = join(import.meta.dirname, "../pictures");
const names = (await readdir(drawings)).filter((name) => name.endsWith(".png"));

const edge = count > 100 ? 640 : 256;
const noise = { type: "gaussian" as const, mean: 128, sigma: 12 };
const grain = await sharp({ create: { width: edge, height: edge, channels: 3, background: "grey", noise } })
  .png()
  .toBuffer();

/** A drawing from another side each time, with the grain that a camera leaves: no two are alike. */
function photograph(n: number): Promise<Buffer> {
  return sharp(join(drawings, names[n % names.length] as string))
    .rotate((n / count) * 360, { background: "white" })
    .resize(edge, edge, { fit: "cover" })
    .composite([{ input: grain, blend: "soft-light" }])
    .jpeg({ quality: 90 })
    .toBuffer();
}

async function objects(): Promise<string[]> {
  const keys = [];
  for await (const { key } of pool.storage.list()) keys.push(key);
  return keys;
}

test(
  `${count} pictures are uploaded, trained on and deleted, and nothing is left`,
  async () => {
    const owner = await pool.signUp();
    const dataset = await pool.make("datasets", owner.token, { images: [] });
    const zip = new ZipFile();
    for (let n = 0; n < count; n += 1) {
      zip.addBuffer(await photograph(n), `photos/${n}.jpg`);
      if (n % 2 === 0) zip.addBuffer(Buffer.from(`photograph ${n}`), `photos/${n}.txt`);
    }
    zip.end();
    const body = new Uint8Array(await new Response(zip.outputStream as unknown as ReadableStream).arrayBuffer());
    const headers = { "Content-Type": "application/zip" };
    const sent = await pool.call("POST", `/api/datasets/${dataset.id}/files`, { token: owner.token, body, headers });
    expect([sent.status, sent.body.added]).toEqual([200, count]);
    expect((await objects()).length).toBe(3 * count); // each with two thumbnails

    const model = await pool.make("models", owner.token, {
      dataset_id: dataset.id,
      epochs: 10,
      train: { resolution: 64, rank: 4 },
    });
    expect((await pool.finished(model.task_id)).status).toBe("success");
    const { report, captions } = await pool.get(`datasets/${dataset.id}`, owner.token);
    expect(report.filter(({ status }: Json) => status === "ok")).toHaveLength(count);
    expect(Object.keys(captions)).toHaveLength(Math.ceil(count / 2));
    const [pinned] = await pool.sql<Json[]>`select manifest from models where id = ${model.id}`;
    expect(new Set(pinned.manifest.map(({ hash }: Json) => hash)).size).toBe(count);
    expect((await objects()).length).toBeGreaterThan(3 * count); // the model and its cover

    for (const path of [`models/${model.id}`, `tasks/${model.task_id}`, `datasets/${dataset.id}`]) {
      expect((await pool.call("DELETE", `/api/${path}`, { token: owner.token })).status).toBe(204);
    }
    const jobs = () => pool.sql`select from graphile_worker.jobs where task_identifier = 'delete-files'`;
    await eventually(jobs, (waiting) => waiting.length === 0);
    expect(await objects()).toEqual([]);
    expect(await pool.sql`select key from files`).toHaveLength(0);
    expect(readdirSync(`${pool.directory}/tmp`)).toEqual([]);
  },
  minutes * 60_000,
);
