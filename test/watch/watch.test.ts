/** `bun run watch` as a program, against an API that says what each case needs. */
import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import type { ServerWebSocket } from "bun";

const program = join(import.meta.dirname, "../../src/watch.ts");
const token = "a-token-that-must-not-be-printed";

type Fields = Record<string, unknown>;
type Socket = ServerWebSocket<{ path: string }>;
/** What GET answers by path; a number is a status. */
let objects: Record<string, Fields | number> = {};
let onOpen: (socket: Socket, path: string, connection: number) => void = () => {};
let connections = 0;
let offered: string | null = null;

const api = Bun.serve<{ path: string }>({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request, server) {
    const path = new URL(request.url).pathname.replace("/api/", "");
    if (request.headers.get("upgrade")) {
      offered = request.headers.get("sec-websocket-protocol");
      const headers = { "Sec-WebSocket-Protocol": "atelier.v1" };
      return server.upgrade(request, { headers, data: { path } }) ? undefined : new Response(null, { status: 400 });
    }
    const object = objects[path] ?? 404;
    return typeof object === "number"
      ? Response.json({ detail: `there is no ${path}` }, { status: object })
      : Response.json(object);
  },
  websocket: {
    open: (socket) => {
      connections += 1;
      onOpen(socket, socket.data.path, connections);
    },
    message() {},
  },
});
api.unref();

const running = new Set<Bun.Subprocess>();
afterEach(async () => {
  for (const child of running) child.kill("SIGKILL");
  running.clear();
  connections = 0;
  objects = {};
});

function start(args: string[], env: Record<string, string | undefined> = {}) {
  const child = Bun.spawn([process.execPath, program, ...args], {
    env: { PATH: process.env.PATH, ATELIER_URL: api.url.href, ATELIER_TOKEN: token, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  running.add(child);
  return child;
}

async function watch(args: string[], env?: Record<string, string | undefined>) {
  const child = start(args, env);
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect(out + err).not.toContain(token);
  return { lines: out.trimEnd().split("\n"), err, code };
}

const model = { id: 1, name: "Cuckoo", status: "running", progress: 0, task_id: null, image: null, error: null };
const task = { id: 3, name: "Two", type: "infer", status: "running", progress: 0, image_ids: [7, 8], error: null };
const frame = (type: string, version: number, data: Fields) => JSON.stringify({ type, version, data });

test("a model's training is followed to its file and its cover", async () => {
  objects = { "models/1": model, "tasks/3": task };
  onOpen = (socket, path) => {
    if (path === "tasks/3") return void socket.send(frame("snapshot", 1, { ...task, stage: "steps" }));
    socket.send(frame("snapshot", 1, { ...model, task_id: 3 }));
    setTimeout(() => socket.send(frame("update", 2, { progress: 50 })), 100);
    const done = { status: "success", progress: 100, image: "http://files/cover.png" };
    setTimeout(() => socket.send(frame("update", 3, done)), 200);
  };
  const { lines, code } = await watch(["models/1"]);
  expect(code).toBe(0);
  expect(lines[0]).toBe("Watching models/1, Cuckoo");
  expect(lines).toContain("running  50 %  steps");
  expect(lines.slice(-2)).toEqual([`file  ${api.url}api/models/1/file`, "cover http://files/cover.png"]);
  expect(offered).toBe(`atelier.v1, bearer.${token}`);
});

test("a task ends with the URLs of its images", async () => {
  objects = {
    "tasks/3": task,
    "images/7": { url: "http://files/7.png" },
    "images/8": { url: "http://files/8.png" },
  };
  onOpen = (socket) => socket.send(frame("snapshot", 5, { ...task, status: "success", progress: 100 }));
  const { lines, code } = await watch(["tasks/3"]);
  expect(code).toBe(0);
  expect(lines.slice(-2)).toEqual(["image http://files/7.png", "image http://files/8.png"]);
});

test("a dropped connection is made again, and a stale answer does not turn progress back", async () => {
  objects = { "images/7": { ...model, name: "Mist" } };
  onOpen = (socket, _path, connection) => {
    if (connection === 1) {
      socket.send(frame("snapshot", 8, { ...model, progress: 60 }));
      setTimeout(() => socket.terminate(), 50);
    } else {
      socket.send(frame("snapshot", 4, { ...model, progress: 20 }));
      socket.send(frame("update", 9, { progress: 80 }));
      socket.send(frame("update", 10, { status: "success", progress: 100, url: "http://files/7.png" }));
    }
  };
  const { lines, code } = await watch(["images/7"]);
  const progress = lines.flatMap((line) => /^running {2}(\d+)/.exec(line)?.[1] ?? []).map(Number);
  expect(code).toBe(0);
  expect(connections).toBe(2);
  expect(lines.some((line) => line.includes("connection lost, trying again"))).toBe(true);
  expect(progress).toEqual([...progress].sort((a, b) => a - b));
  expect(lines.at(-1)).toBe("image http://files/7.png");
});

test.each([
  {
    status: "error",
    error: { class: "bad-input", detail: "The data set is gone" },
    says: "failed: bad-input: The data",
  },
  { status: "error", error: { class: "canceled", detail: "The task was canceled" }, says: "models/1: canceled" },
  { status: "canceled", error: null, says: "models/1: canceled" },
])("what ends with $status says so in one line: $says", async ({ status, error, says }) => {
  objects = { "models/1": model };
  onOpen = (socket) => socket.send(frame("snapshot", 2, { ...model, status, error }));
  const { err, code } = await watch(["models/1"]);
  expect(code).toBe(1);
  expect(err).toContain(says);
  expect(err.trimEnd()).not.toContain("\n");
});

test("an object that is deleted meanwhile is no success", async () => {
  objects = { "models/1": model };
  onOpen = (socket) => {
    socket.send(frame("snapshot", 2, model));
    socket.send(JSON.stringify({ type: "delete", name: "models", id: 1 }));
  };
  const { err, code } = await watch(["models/1"]);
  expect({ err, code }).toEqual({ err: "models/1 has been deleted\n", code: 1 });
});

test("a session that ends, ends the watch", async () => {
  objects = { "models/1": model };
  onOpen = (socket) => socket.close(4401, "the session has ended");
  const { err, code } = await watch(["models/1"]);
  expect({ err, code }).toEqual({ err: "models/1: the session has ended\n", code: 1 });
});

test.each([
  { why: "an unknown object", args: ["models/2"], env: {}, says: "models/2: there is no models/2 (404)" },
  { why: "a guest", args: ["models/2"], env: { ATELIER_TOKEN: "" }, says: "(404; ATELIER_TOKEN is not set)" },
  { why: "a refused token", args: ["models/401"], env: {}, says: "(401)" },
  { why: "no argument", args: [], env: {}, says: "Usage: bun run watch NAME/ID" },
  { why: "nonsense", args: ["models"], env: {}, says: "Usage: bun run watch NAME/ID" },
  { why: "nobody there", args: ["models/1"], env: { ATELIER_URL: "http://127.0.0.1:9" }, says: "cannot be reached" },
  { why: "a bad URL", args: ["models/1"], env: { ATELIER_URL: "ftp://x" }, says: "ATELIER_URL: " },
  { why: "a bad token", args: ["models/1"], env: { ATELIER_TOKEN: "häß lich" }, says: "ATELIER_TOKEN: is no token" },
])("$why: one line and exit code 1", async ({ args, env, says }) => {
  objects = { "models/401": 401 };
  const { err, code } = await watch([...args], env);
  expect(code).toBe(1);
  expect(err).toContain(says);
  expect(err.trimEnd()).not.toContain("\n");
});

test("other people's text moves no cursor", async () => {
  objects = { "models/1": model };
  onOpen = (socket) => socket.send(frame("snapshot", 2, { ...model, name: "a\x1b[2Jb\u202Ec", status: "success" }));
  const { lines } = await watch(["models/1"]);
  expect(lines[0]).toBe("Watching models/1, a [2Jb c");
});

test("what is not made by a task is shown change by change", async () => {
  objects = { "datasets/1": { name: "Birds" } };
  onOpen = (socket) => {
    socket.send(frame("snapshot", 1, { name: "Birds", tags: [] }));
    socket.send(frame("update", 2, { tags: ["ink"] }));
    setTimeout(() => socket.send(JSON.stringify({ type: "delete" })), 50);
  };
  const { lines, code } = await watch(["datasets/1"]);
  expect(lines).toEqual(['name="Birds" tags=[]', 'tags=["ink"]']);
  expect(code).toBe(1);
});

test("Ctrl-C ends it with 130", async () => {
  objects = { "models/1": model };
  const isOpen = Promise.withResolvers<void>();
  onOpen = (socket) => {
    socket.send(frame("snapshot", 2, model));
    isOpen.resolve();
  };
  const child = start(["models/1"]);
  await isOpen.promise;
  child.kill("SIGINT");
  expect(await child.exited).toBe(130);
  expect(await new Response(child.stderr).text()).toBe("");
});
