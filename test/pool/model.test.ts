/**
 * Task and lease as a state machine: random interleavings of all that happens to the pool, one by one against a model,
 * and at once against the rules alone. A failure prints its seed; `MODEL_SEED` repeats it but for what the clock decides
 * and, at once, the scheduler; `MODEL_STEPS` makes it longer.
 */
import { expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";
import { findFaults, guardEpochs, readPool } from "../helpers/pool-invariants.ts";
import { poolModel } from "../helpers/pool-model.ts";
import { randomFrom } from "../helpers/random.ts";

const seed = Number(process.env.MODEL_SEED ?? Math.floor(Math.random() * 2 ** 31));
const steps = Number(process.env.MODEL_STEPS ?? 400);
const timeoutMs = 30_000 + 20 * steps;
const random = randomFrom(seed);
const { next, pick } = random;

const app = await startApp();
const { sql } = app;
const { operations, predicted, tokens, ended, forget } = await poolModel(app, random);
await guardEpochs(sql);

type Name = keyof typeof operations;
/** What keeps the pool busy comes more often. */
const often: Partial<Record<Name, number>> = {
  ...{ order: 3, dispatch: 5, takeOver: 4, finish: 3, release: 3, storeHandle: 2, look: 2, beat: 4, answer: 6 },
};
const names = (Object.keys(operations) as Name[]).flatMap((name) => Array<Name>(often[name] ?? 1).fill(name));

/** Says how to come back to a failure, and what went before it. */
async function traced(done: string[], work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (thrown) {
    console.error(
      `MODEL_SEED=${seed} MODEL_STEPS=${steps}: failed at ${done.length}, after ${done.slice(-12).join(", ")}`,
    );
    throw thrown;
  }
}

test(
  "one by one, every write takes effect if and only if the model says so",
  async () => {
    const done: string[] = [];
    await traced(done, async () => {
      while (done.length < steps) {
        const name = pick(names);
        done.push(name);
        await operations[name]();
        const [rows, faults] = await Promise.all([readPool(sql), findFaults(sql, 2)]);
        expect(rows).toEqual(predicted());
        expect(faults).toEqual([]);
      }
    });
  },
  timeoutMs,
);

test(
  "all at once, nothing is given twice, lost or written by two",
  async () => {
    forget();
    const done: string[] = [];
    await traced(done, async () => {
      while (done.length < steps) {
        // Now and then all do the same.
        const together = next() < 0.3 ? Array<Name>(6).fill(pick(names)) : Array.from({ length: 6 }, () => pick(names));
        done.push(...together);
        await Promise.all(together.map((name) => operations[name]()));
        expect(await findFaults(sql, 2)).toEqual([]);
      }
      const given = tokens.map(({ taskId, epoch }) => `task ${taskId}, epoch ${epoch}`);
      expect(given.filter((token, at) => given.indexOf(token) !== at)).toEqual([]);
      const written = await sql<{ id: number; ended: number }[]>`
        select t.id, count(a.id) filter (where a.outcome <> 'canceled')::int as ended
        from tasks t left join attempts a on a.task_id = t.id
        group by 1
      `;
      expect([...written]).toEqual(written.map(({ id }) => ({ id, ended: ended.get(id) ?? 0 })));
    });
  },
  timeoutMs,
);
