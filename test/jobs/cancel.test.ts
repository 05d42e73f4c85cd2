/** A cancel that overtakes what it cancels, on its way to the engine. */
import { afterAll, expect, test } from "bun:test";
import { ComfyuiDouble } from "../helpers/comfyui-double.ts";
import { startPool } from "../helpers/pool.ts";
import { eventually } from "../helpers/socket.ts";

const pool = await startPool({ engines: [] });
const engine = new ComfyuiDouble();
afterAll(() => engine.stop());
const { port } = engine.target;
const server = await pool.make("servers", pool.admin.token, {
  name: "painter",
  type: "infer",
  engine: "comfyui",
  ip: "127.0.0.1",
  port,
});
await pool.untilServer(server.id, "ready");
const owner = await pool.signUp();

test("a run that reaches the engine after its cancel is ended there, and nothing else is", async () => {
  const submitted = Promise.withResolvers<void>();
  const overtaken = Promise.withResolvers<void>();
  engine.held = "steps";
  engine.intercept = async (request, url) => {
    if (request.method !== "POST" || url.pathname !== "/prompt") return undefined;
    submitted.resolve();
    await overtaken.promise;
    return undefined;
  };
  const image = await pool.make("images", owner.token, { prompt: "a lake", width: 64, height: 64 });
  await submitted.promise;
  const { status } = await pool.call("PATCH", `/api/tasks/${image.task_id}`, {
    token: owner.token,
    body: { status: "canceled" },
  });
  expect(status).toBe(200);
  // The cancel has been to the engine, which had not heard of the run.
  await eventually(
    () => pool.sql`select from graphile_worker.jobs where task_identifier = 'cancel-run'`,
    (jobs) => jobs.length === 0,
  );
  expect(engine.submitted).toHaveLength(0);
  engine.intercept = null;
  overtaken.resolve();
  await engine.until(() => engine.submitted.length === 1);
  const [late] = engine.submitted;
  await engine.until(
    () => !engine.isRunning(late?.id ?? "") && engine.requests.some(({ line }) => /cancel|interrupt/.test(line)),
  );
  engine.held = null;
  const next = await pool.make("images", owner.token, { prompt: "a hill", width: 64, height: 64 });
  expect(await pool.finished(next.task_id)).toMatchObject({ status: "success", attempts: 1 });
  expect(await pool.get(`tasks/${image.task_id}`, owner.token)).toMatchObject({ status: "canceled", attempts: 1 });
  expect(engine.submitted).toHaveLength(2);
});
