/** When tasks are expected to end: from measured speeds, and from what goes before them. */
import { beforeEach, describe, expect, test } from "bun:test";
import { estimateRest, estimateWork, type Sample, type Work } from "../../src/pool/eta.ts";
import type { Need } from "../../src/pool/snapshot.ts";
import { type Json, startApp } from "../helpers/app.ts";
import { poolRows } from "../helpers/pool-rows.ts";
import { listen } from "../helpers/socket.ts";

const need = (id: number, pixels: number): [number, Need] => [
  id,
  { id, type: "infer", wants: { pixels }, seconds: 15, profiles: [1] },
];
const needs = new Map([need(1, 512 * 512), need(2, 1024 * 1024)]);
/** Ten steps a second, and two seconds for loading and saving. */
const sample = (fields: Partial<Sample> = {}): Sample => ({
  need_id: 1,
  server_id: 1,
  model_id: null,
  gpu_seconds: 4,
  steps: 20,
  steps_per_second: 10,
  ...fields,
});
const work = (fields: Partial<Work> = {}): Work => ({ needId: 1, modelId: null, serverId: null, steps: 50, ...fields });

describe("how long work takes", () => {
  test.each<{ what: string; samples: Sample[]; work: Partial<Work>; p50: number; p90: number }>([
    { what: "nothing was seen: the guess", samples: [], work: {}, p50: 15, p90: 30 },
    {
      what: "more steps take longer, loading does not",
      samples: [1, 2, 3].map(() => sample()),
      work: {},
      p50: 7,
      p90: 7,
    },
    {
      what: "of ten, the slowest one is left out",
      samples: Array.from({ length: 11 }, (_, i) => sample({ steps_per_second: null, gpu_seconds: i + 1 })),
      work: {},
      p50: 6,
      p90: 10,
    },
    {
      what: "the server it runs on, when that is known well enough",
      samples: [...[1, 2, 3].map(() => sample()), ...[1, 2, 3].map(() => sample({ server_id: 2, gpu_seconds: 5 }))],
      work: { serverId: 2 },
      p50: 8,
      p90: 8,
    },
    {
      what: "the model it uses, when that is known well enough",
      samples: [...[1, 2, 3, 4].map(() => sample()), ...[1, 2, 3].map(() => sample({ model_id: 7, gpu_seconds: 9 }))],
      work: { modelId: 7 },
      p50: 12,
      p90: 12,
    },
    {
      what: "two of a model are no measure of it",
      samples: [...[1, 2, 3, 4].map(() => sample()), ...[1, 2].map(() => sample({ model_id: 7, gpu_seconds: 9 }))],
      work: { modelId: 7 },
      p50: 7,
      p90: 12,
    },
    {
      what: "four times the pixels, seen only smaller: four times as long a step",
      samples: [sample()],
      work: { needId: 2 },
      p50: 22,
      p90: 33,
    },
  ])("$what", ({ samples, work: fields, p50, p90 }) => {
    const { p50: half, p90: most } = estimateWork(work(fields), samples, needs);
    expect([half, most]).toEqual([p50, p90]);
  });

  test.each([
    { elapsed: 2, progress: 0, p50: 8, p90: 18 },
    { elapsed: 50, progress: 0, p50: 1, p90: 1 },
    { elapsed: 30, progress: 50, p50: 30, p90: 60 },
    { elapsed: 30, progress: 99, p50: 1, p90: 2 },
  ])("after $elapsed s at $progress%", ({ elapsed, progress, p50, p90 }) => {
    expect(estimateRest({ p50: 10, p90: 20 }, elapsed, progress)).toEqual({ p50, p90 });
  });
});

const app = await startApp();
const { sql } = app;
const { server, task, round, clear } = poolRows(sql);
const owner = await app.signUp();
const admin = await app.admin();
const show = async (id: number) => (await app.call("GET", `/api/tasks/${id}`, { token: admin.token })).body;
const secondsUntil = (time: string) => (Date.parse(time) - Date.now()) / 1000;
beforeEach(async () => {
  await clear();
  await sql`
    insert into workers (id, host, expires_at) values ('w', 'here', now() + interval '1 hour') on conflict do nothing
  `;
});

describe("on the task", () => {
  test("each that waits behind others later than those, and a second slot brings them nearer", async () => {
    await server();
    const ids: number[] = [];
    for (let i = 0; i < 6; i += 1) ids.push(await task({ user: owner.id, age: 60 - i }));
    await round();
    const shown = await Promise.all(ids.map(show));
    expect(shown.map((row) => row.queue_position)).toEqual([null, 1, 2, 3, 4, 5]);
    // The guess is 15 s each, one after the other.
    const waits = shown.map((row) => secondsUntil(row.eta.p50));
    for (const [index, seconds] of waits.entries()) {
      expect(Math.abs(seconds - 15 * (index + 1))).toBeLessThan(5);
      expect(Date.parse(shown[index].eta.p90)).toBeGreaterThan(Date.parse(shown[index].eta.p50));
    }
    await server();
    expect(secondsUntil((await show(ids[5] as number)).eta.p50)).toBeLessThan((waits[5] as number) - 20);
  });

  test("nobody knows while the pool is paused, no server can run it, or it may not start yet", async () => {
    const id = await task({ user: owner.id });
    expect(await show(id)).toMatchObject({ queue_position: 1, eta: null });
    await server();
    expect((await show(id)).eta).toEqual({ p50: expect.any(String), p90: expect.any(String) });
    await sql`update pool set is_paused = true, paused_at = now()`;
    expect(await show(id)).toMatchObject({ queue_position: 1, eta: null });
    await sql`update pool set is_paused = false, paused_at = null`;
    await sql`update tasks set not_before = now() + interval '1 hour' where id = ${id}`;
    expect(await show(id)).toMatchObject({ queue_position: null, eta: null });
  });

  /** The eta moves by the clock: a second may pass between two looks. */
  const withoutClock = ({ eta, ...task }: Json) => ({ ...task, eta: Object.keys(eta) });

  test("the socket says the same as GET", async () => {
    const api = await listen(app);
    await server({ foreign: 1 });
    const first = await task({ user: owner.id, age: 9 });
    const id = await task({ user: owner.id });
    const watch = await api.watch(`tasks/${id}`, { token: admin.token });
    expect(withoutClock(watch.state)).toEqual(withoutClock(await show(id)));
    await sql`delete from tasks where id = ${first}`;
    await sql`update tasks set priority = 1 where id = ${id}`;
    await watch.next((frame) => frame.type === "update");
    expect(watch.state).toMatchObject({ queue_position: 1 });
    expect(withoutClock(watch.state)).toEqual(withoutClock(await show(id)));
    await watch.close();
  });
});
