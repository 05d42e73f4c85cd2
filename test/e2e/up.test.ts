/** A newcomer's journey, through the real commands: what the README promises of `up`. One system for all. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "../../src/db/client.ts";
import { makeScratch } from "../helpers/scratch.ts";
import {
  type Client,
  createClient,
  type Json,
  living,
  logIn,
  root,
  run,
  runToEnd,
  type System,
  signUp,
  startUp,
} from "./system.ts";

const minute = 60_000;
const pictures = join(root, "test/pictures");
let directory: string;
let system: System;
/** A second one, on its way while the first is at work. */
let other: Promise<System>;

beforeAll(async () => {
  directory = makeScratch("atelier-e2e-");
  // One task at a time for each worker: with two engines for inference, two workers have to share the work.
  system = await startUp(join(directory, "data"), { DEMO_ENGINES: "3", WORKER_CONCURRENCY: "1" });
  other = startUp(join(directory, "other"), { DEMO_ENGINES: "0" });
  other.catch(() => {}); // its test tells
}, minute);

afterAll(async () => {
  await Promise.allSettled([system?.stop(), other?.then(({ stop }) => stop())]);
  rmSync(directory, { recursive: true, force: true });
}, minute);

/** Runs lines as if pasted into a shell. */
async function paste(lines: string, env: Record<string, string> = {}) {
  const child = Bun.spawn(["sh", "-s"], {
    cwd: root,
    env: { PATH: process.env.PATH, HOME: directory, ...env },
    stdin: new Blob([lines]),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { out, err, code: await child.exited };
}

const readme = readFileSync(join(root, "README.md"), "utf8");

/** The README's walk, towards this system: its address, its Bun, its own directory for pictures. */
function walk(): string {
  const blocks = [...readme.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(([, lines]) => lines);
  return blocks
    .join("")
    .replaceAll("/tmp/", `${directory}/`)
    .replaceAll("http://127.0.0.1:3000", system.url)
    .replaceAll("npx --yes bun@1.4.5", `'${process.execPath}'`);
}

test(
  "the README's lines, pasted one after the other, train a model and paint with it",
  async () => {
    const { out, err, code } = await paste(walk(), { ATELIER_URL: system.url });
    expect({ code, err }).toEqual({ code: 0, err: "" });
    const lines = out.trimEnd().split("\n");
    expect(lines.at(-1)).toBe("204"); // logged out
    expect(lines.filter((line) => line.startsWith("Done after"))).toHaveLength(2);
    expect(lines.filter((line) => line.startsWith("running")).length).toBeGreaterThan(8);
    const painted = lines.filter((line) => line.endsWith(".png") && line.startsWith(directory));
    expect(painted).toHaveLength(2);
    for (const path of painted) expect(readFileSync(path).subarray(1, 4).toString()).toBe("PNG");

    const admin = await logIn(system.url, system.admin ?? { email: "", password: "" });
    const dataset = await admin.get("datasets/1");
    expect(dataset.image_count).toBe(12);
    expect(
      Object.values(dataset.captions as Json).filter((caption) => /^ink drawing, /.test(String(caption))),
    ).toHaveLength(12);
    // Uses are counted a few seconds later.
    const model = await admin.follow("models/1", ({ uses }) => uses === 2);
    expect(model).toMatchObject({ name: "Cuckoo in ink", status: "success", dataset_id: 1 });
    const { list } = await admin.get("sessions?user_id=2");
    expect(list).toEqual([]);
  },
  minute,
);

test("the three lines that up suggests work", async () => {
  const lines = system
    .printed()
    .split("\n")
    .filter((line) => /^ {2}(curl|TOKEN=)/.test(line));
  expect(lines).toHaveLength(3);
  const { out, err } = await paste(lines.join("\necho\n"));
  expect(err).toBe("");
  const [, painted, shown] = out.split("\n").map((line) => line.trim());
  const made = JSON.parse(painted ?? "");
  expect(made).toMatchObject({ prompt: "a lighthouse at dawn", user_id: 1 });
  expect(JSON.parse(shown ?? "").list[0].id).toBe(made.id);
});

test("what is private is invisible to strangers and guests: objects, lists, files, sockets", async () => {
  const owner = await logIn(system.url, { email: "mei@example.org", password: "ink and paper" });
  const stranger = await signUp(system.url, "stranger");
  const guest = createClient(system.url, null);
  const [image] = (await owner.get("images?user_id=2")).list as Json[];
  const file = String((await owner.get("datasets/1")).cover);
  const paths = ["datasets/1", "models/1", "models/1/file", "tasks/1", `images/${image?.id}`, file.split("?")[0] ?? ""];
  for (const path of paths) {
    expect({ path, status: (await owner.ask("GET", path)).status }).toEqual({ path, status: 200 });
    for (const other of [stranger, guest]) {
      expect({ path, status: (await other.ask("GET", path)).status }).toEqual({ path, status: 404 });
    }
  }
  for (const name of ["datasets", "models", "tasks", "images"]) {
    for (const other of [stranger, guest]) expect((await other.get(name)).list).toEqual([]);
    const path = name === "images" ? `images/${image?.id}` : `${name}/1`;
    expect((await owner.follow(path, () => true)).user_id).toBe(2);
    for (const other of [stranger, guest]) {
      expect(await refusal(path, other)).toBe("404");
      expect(await refusal(`${name}/999999`, other)).toBe("404");
    }
  }
});

/** The HTTP status that a WebSocket handshake is refused with. */
async function refusal(path: string, { token }: Client): Promise<string> {
  const handshake = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"];
  const headers = [...handshake, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", ...(token ? [`Token: ${token}`] : [])];
  return (await curl([...headers.flatMap((header) => ["-H", header]), `${system.url}/api/${path}`])).status;
}

async function curl(args: string[]) {
  const child = Bun.spawn(["curl", "-s", "-m", "20", "-w", "\n%{http_code}\n%{content_type}", ...args], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const lines = (await new Response(child.stdout).text()).split("\n");
  return { type: lines.pop() ?? "", status: lines.pop() ?? "", body: lines.join("\n"), code: await child.exited };
}

test(
  "a second worker takes part: eight pictures, some made by either",
  async () => {
    const admin = await logIn(system.url, system.admin ?? { email: "", password: "" });
    const second = run(["worker"], { DATA_DIR: system.dataDir, WORKER_CONCURRENCY: "1", LOG_LEVEL: "info" });
    const { url } = JSON.parse(readFileSync(join(system.dataDir, "database.json"), "utf8"));
    const sql = connect(url, { max: 1 });
    try {
      const heard = await new Response(second.stderr.pipeThrough(until("the worker runs"))).text();
      const secondId = /"workerId":"([\w-]+)"/.exec(heard)?.[1] ?? "unknown";
      const orders = Array.from({ length: 8 }, (_, seed) => ({
        prompt: "mist",
        num_inference_steps: 5,
        seed,
        width: 256,
        height: 256,
      }));
      const images = await Promise.all(orders.map((order) => admin.post("images", order)));
      const ends = Promise.all(images.map(({ id }) => admin.follow(`images/${id}`, isOver)));
      const workers = new Map<unknown, unknown>();
      let isDone = false;
      ends.finally(() => (isDone = true)).catch(() => {});
      while (!isDone) {
        // Which worker ran a task is known only while it does.
        for (const row of await sql`select task_id, worker_id from leases where worker_id is not null`) {
          workers.set(row.task_id, row.worker_id);
        }
        await Bun.sleep(20);
      }
      expect((await ends).map(({ status }) => status)).toEqual(images.map(() => "success"));
      expect(new Set(workers.values()).size).toBe(2);
      expect([...workers.values()]).toContain(secondId);
    } finally {
      await sql.end();
      second.kill("SIGTERM");
    }
    expect(await second.exited).toBe(0);
  },
  minute,
);

const isOver = ({ status }: Json) => ["success", "error", "canceled"].includes(String(status));

/** Passes text on up to the line that holds `mark`. */
function until(mark: string) {
  const decoder = new TextDecoder();
  let text = "";
  return new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      text += decoder.decode(chunk, { stream: true });
      controller.enqueue(chunk);
      if (text.includes(mark) && text.endsWith("\n")) controller.terminate();
    },
  });
}

test(
  "what is too large is refused with a problem, by multipart and raw",
  async () => {
    const { token } = await signUp(system.url, "large");
    const picture = join(directory, "large.png");
    writeFileSync(picture, readFileSync(join(pictures, "irises.png")));
    truncateSync(picture, 300 * 1024 ** 2);
    const zeros = join(directory, "zeros.png");
    writeFileSync(zeros, "");
    truncateSync(zeros, 300 * 1024 ** 2);
    const auth = ["-H", `Authorization: Bearer ${token}`, `${system.url}/api/files`];
    for (const path of [picture, zeros]) {
      for (const way of [
        ["-F", `file=@${path}`],
        ["-X", "POST", "-H", "Content-Type: image/png", "-T", path],
      ]) {
        const { status, type, body, code } = await curl([...way, ...auth]);
        expect({ way, status, type, code }).toEqual({ way, status: "413", type: "application/problem+json", code: 0 });
        expect(JSON.parse(body).code).toBe("too-large");
      }
    }
  },
  minute,
);

test("a text called .png is no picture", async () => {
  const { token } = await signUp(system.url, "text");
  const path = join(directory, "text.png");
  writeFileSync(path, "not a picture\n");
  const auth = ["-H", `Authorization: Bearer ${token}`, `${system.url}/api/files`];
  const { status, type } = await curl(["-F", `file=@${path};type=image/png`, ...auth]);
  expect({ status, type }).toEqual({ status: "415", type: "application/problem+json" });
});

test(
  "what cannot start says why in one line and exits with 1",
  async () => {
    const notADirectory = join(directory, "file");
    writeFileSync(notADirectory, "");
    const port = new URL(system.url).port;
    const nowhere = "postgres://atelier:secret@127.0.0.1:9/atelier";
    const cases = [
      { args: ["up"], env: { PORT: port }, says: `port ${port} on 127.0.0.1 is in use; set PORT to another one` },
      { args: ["up"], env: { DATABASE_URL: nowhere }, says: "DATABASE_URL: no PostgreSQL answers at 127.0.0.1:9" },
      { args: ["up"], env: { DATABASE_URL: "mysql://x" }, says: "DATABASE_URL: Invalid URL" },
      {
        args: ["up"],
        env: { DATA_DIR: join(notADirectory, "data") },
        says: `DATA_DIR ${notADirectory}/data cannot be written`,
      },
      { args: ["up"], env: { DATA_DIR: system.dataDir }, says: `DATA_DIR ${system.dataDir} is in use by another` },
      { args: ["start"], env: { DATA_DIR: system.dataDir, PORT: port }, says: `PORT: 127.0.0.1:${port} is in use` },
      { args: ["start"], env: { DATABASE_URL: nowhere }, says: "DATABASE_URL: no PostgreSQL answers at 127.0.0.1:9" },
      { args: ["worker"], env: {}, says: "No database: DATABASE_URL is not set and no embedded PostgreSQL runs under" },
      {
        args: ["start"],
        env: { DATA_DIR: system.dataDir, SECRET_KEY: "x".repeat(32) },
        says: "SECRET_KEY is not the one",
      },
    ];
    await Promise.all(
      cases.map(async ({ args, env, says }, index) => {
        const dataDir = join(directory, `refused-${index}`);
        mkdirSync(dataDir);
        const { lines, code } = await runToEnd(args, { DATA_DIR: dataDir, PORT: "0", DEMO_ENGINES: "0", ...env });
        expect({ says, code, lines }).toEqual({ says, code: 1, lines: [expect.stringContaining(says)] });
      }),
    );
  },
  minute,
);

test(
  "two systems run side by side, and each stops alone",
  async () => {
    const second = await other;
    const processes = second.processes();
    expect(processes.length).toBe(living(processes).length);
    const [one, two] = await Promise.all([system, second].map(({ url }) => fetch(`${url}/readyz`)));
    expect([one?.status, two?.status]).toEqual([200, 200]);
    expect(await second.stop()).toBe(0);
    expect(living(processes)).toEqual([]);
    expect((await fetch(`${system.url}/readyz`)).status).toBe(200);
  },
  minute,
);

test(
  "an operator's command starts a database that is at rest, and puts it to rest again",
  async () => {
    const { dataDir } = await other;
    const { out, code } = await runToEnd(["admin", "rotate-key"], { DATA_DIR: dataDir });
    expect({ out, code }).toEqual({ out: expect.stringContaining("start every process again"), code: 0 });
    expect(JSON.parse(readFileSync(join(dataDir, "database.json"), "utf8")).server).toBeNull();
    const { lines } = await runToEnd(["admin", "rotate-key"], { DATA_DIR: system.dataDir, SECRET_KEY: "x".repeat(32) });
    expect(lines).toEqual(["SECRET_KEY is not the one that this database was used with"]);
  },
  minute,
);

test(
  "a training that SIGTERM interrupts is finished by the next up, once, and all is still there",
  async () => {
    const owner = await signUp(system.url, "patient");
    const files = ["feather", "irises", "nest"].map((name) => owner.upload(join(pictures, `${name}.png`)));
    const images = (await Promise.all(files)).map(({ url }) => url);
    const dataset = await owner.post("datasets", { images });
    const model = await owner.post("models", { dataset_id: dataset.id, train: { resolution: 128 } });
    await owner.follow(`models/${model.id}`, ({ progress }) => Number(progress) >= 20);
    const processes = system.processes();
    expect(processes.length).toBe(living(processes).length);
    expect(await system.stop()).toBe(0);
    expect(living(processes)).toEqual([]);

    const port = new URL(system.url).port;
    system = await startUp(system.dataDir, { DEMO_ENGINES: "3", PORT: port });
    expect(system.admin).toBeNull(); // shown once
    const done = await owner.follow(`models/${model.id}`, isOver);
    expect(done).toMatchObject({ status: "success", progress: 100, error: null });
    const kept = (await owner.get("files")).list as Json[];
    expect(kept.filter(({ content_type }) => content_type === "application/octet-stream")).toHaveLength(1);
    expect((await owner.ask("GET", `models/${model.id}/file`)).status).toBe(200);
    const mei = await logIn(system.url, { email: "mei@example.org", password: "ink and paper" });
    expect(await mei.get("models/1")).toMatchObject({ status: "success", uses: 2 });
  },
  minute,
);
