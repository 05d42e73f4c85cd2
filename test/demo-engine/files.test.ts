import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  getJson,
  type Json,
  Listener,
  pictureGraph,
  startEngine,
  temporaryDirectory,
  twoColors,
  upload,
  view,
} from "./client.ts";

const directory = temporaryDirectory();
const engine = await startEngine({ directory });

describe("uploads", () => {
  test("keep a different file of the same name and store the same bytes once", async () => {
    const subfolder = "a/b";
    const names: string[] = [];
    for (const bytes of ["one", "two", "one", "two", "three"]) {
      names.push(((await (await upload(engine, { name: "x.txt", bytes, subfolder })).json()) as Json).name);
    }
    expect(names).toEqual(["x.txt", "x (1).txt", "x.txt", "x (1).txt", "x (2).txt"]);
    const stored = await view(engine, { filename: "x (1).txt", subfolder, type: "input" });
    expect(await stored.text()).toBe("two");
  });

  test("replace the file when told to overwrite", async () => {
    for (const bytes of ["one", "two"]) await upload(engine, { name: "over.txt", bytes, overwrite: "true" });
    const stored = await view(engine, { filename: "over.txt", type: "input" });
    expect(await stored.text()).toBe("two");
  });

  test.each([
    { why: "a sub-folder outside", name: "x.txt", subfolder: "../../outside" },
    { why: "a name outside", name: "../../../x.txt", subfolder: "" },
    { why: "an absolute sub-folder", name: "x.txt", subfolder: temporaryDirectory() },
    { why: "an unknown type", name: "x.txt", subfolder: "", type: "models" },
  ])("answer 400 for $why", async ({ why: _, ...fields }) => {
    expect((await upload(engine, { bytes: "x", ...fields })).status).toBe(400);
  });

  test("answer 400 without a file part", async () => {
    const form = new FormData();
    form.set("image", "just text");
    expect((await fetch(`${engine.url}/upload/image`, { method: "POST", body: form })).status).toBe(400);
  });

  test("of type output into loras and checkpoints appear in the model lists and choices", async () => {
    const bytes = "not looked at";
    const answer: Json = await (
      await upload(engine, { name: "mine.safetensors", bytes, type: "output", subfolder: "loras/jobs" })
    ).json();
    expect(answer).toEqual({ name: "mine.safetensors", subfolder: "loras/jobs", type: "output" });
    expect(await getJson(engine, "/models/loras")).toContain("jobs/mine.safetensors");
    const { LoraLoader } = await getJson(engine, "/object_info/LoraLoader");
    expect(LoraLoader.input.required.lora_name[0]).toContain("jobs/mine.safetensors");
  });

  test("over the limit answer 413 and store nothing", async () => {
    const home = temporaryDirectory();
    const small = await startEngine({ maxUploadBytes: 10_000, directory: home });
    expect((await upload(small, { name: "big.bin", bytes: new Uint8Array(50_000) })).status).toBe(413);
    expect(existsSync(join(home, "input", "big.bin"))).toBe(false);
    expect((await upload(small, { name: "small.bin", bytes: new Uint8Array(5_000) })).status).toBe(200);
    expect((await getJson(small, "/features")).max_upload_size).toBe(10_000);
  });
});

describe("view", () => {
  test.each<{ why: string; query: Record<string, string>; status: number }>([
    { why: "a file that is not there", query: { filename: "none.png" }, status: 404 },
    { why: "no name", query: {}, status: 404 },
    { why: "a name that climbs", query: { filename: "../x.png" }, status: 400 },
    { why: "an absolute name", query: { filename: "/etc/passwd" }, status: 400 },
    { why: "an unknown type", query: { filename: "x.png", type: "nonsense" }, status: 400 },
    { why: "a sub-folder outside", query: { filename: "x.png", subfolder: "../.." }, status: 403 },
  ])("answers $status for $why", async ({ query, status }) => {
    expect((await view(engine, query)).status).toBe(status);
  });

  test("gives a file with its type and length, and a smaller preview on demand", async () => {
    const bytes = await twoColors("#f00", "#00f");
    await upload(engine, { name: "flag.png", bytes });
    const whole = await view(engine, { filename: "flag.png [input]" });
    expect(whole.headers.get("content-type")).toBe("image/png");
    expect(Buffer.from(await whole.arrayBuffer()).equals(bytes)).toBe(true);
    const preview = await view(engine, { filename: "flag.png", type: "input", preview: "webp;50" });
    expect(preview.headers.get("content-type")).toBe("image/webp");
    expect(
      Buffer.from(await preview.arrayBuffer())
        .subarray(8, 12)
        .toString(),
    ).toBe("WEBP");
  });
});

describe("what the engine tells of itself", () => {
  test("is honest: a demo on a CPU", async () => {
    const { system, devices } = await getJson(engine, "/system_stats");
    expect(system.comfyui_version).toBe("0.3.64-demo");
    expect(devices).toMatchObject([{ name: "Atelier demo engine (CPU)", type: "cpu" }]);
    expect(devices[0].vram_total).toBeGreaterThan(0);
  });

  test("lists models by folder, with a checkpoint for each base model", async () => {
    expect(await getJson(engine, "/models")).toEqual(expect.arrayContaining(["checkpoints", "loras", "embeddings"]));
    expect(await getJson(engine, "/models/checkpoints")).toEqual([
      "v1-5-pruned-emaonly-demo.safetensors",
      "v2-1_512-ema-pruned-demo.safetensors",
    ]);
    expect((await fetch(`${engine.url}/models/nonsense`)).status).toBe(404);
    expect(await getJson(engine, "/embeddings")).toEqual([]);
    const metadata = await getJson(engine, "/view_metadata/checkpoints?filename=v1-5-pruned-emaonly-demo.safetensors");
    expect(metadata.demo).toContain("no weights");
    expect((await fetch(`${engine.url}/view_metadata/checkpoints?filename=none.safetensors`)).status).toBe(404);
  });
});

describe("with a log-in", () => {
  const authorization = `Basic ${btoa("artist:se:cret")}`;

  test("every request needs it, the socket's upgrade too", async () => {
    const guarded = await startEngine({ username: "artist", password: "se:cret" });
    for (const path of ["/system_stats", "/api/queue", "/ws?clientId=x"]) {
      const refused = await fetch(guarded.url + path);
      expect(refused.status).toBe(401);
      expect(refused.headers.get("www-authenticate")).toStartWith("Basic ");
    }
    const wrong = await fetch(`${guarded.url}/queue`, { headers: { authorization: `Basic ${btoa("artist:guess")}` } });
    expect(wrong.status).toBe(401);
    expect((await fetch(`${guarded.url}/queue`, { headers: { authorization } })).status).toBe(200);

    const url = `${guarded.url.replace("http", "ws")}/ws?clientId=x`;
    const outside = new WebSocket(url);
    expect(await new Promise((resolve) => (outside.onerror = () => resolve("refused")))).toBe("refused");
    const inside = new WebSocket(url, { headers: { authorization } } as unknown as string[]);
    const first = await new Promise<string>((resolve) => (inside.onmessage = ({ data }) => resolve(String(data))));
    expect(JSON.parse(first)).toMatchObject({ type: "status", data: { sid: "x" } });
    inside.close();
  });
});

test("a page of another site is refused", async () => {
  const response = await fetch(`${engine.url}/queue`, { headers: { origin: "https://example.org" } });
  expect(response.status).toBe(403);
});

test("files survive a restart, the history and temp/ do not", async () => {
  const home = temporaryDirectory();
  const first = await startEngine({ directory: home });
  await upload(first, { name: "kept.txt", bytes: "kept" });
  await upload(first, { name: "gone.txt", bytes: "gone", type: "temp" });
  await first.stop();
  const second = await startEngine({ directory: home });
  expect(await (await view(second, { filename: "kept.txt", type: "input" })).text()).toBe("kept");
  expect((await view(second, { filename: "gone.txt", type: "temp" })).status).toBe(404);
  expect(await getJson(second, "/history")).toEqual({});
});

test("an engine can be stopped while it works", async () => {
  const other = await startEngine();
  const listener = await Listener.open(other);
  const id = await listener.post(pictureGraph({ steps: 10000 }));
  await listener.progressOf(id);
  await other.stop();
  expect(fetch(`${other.url}/queue`)).rejects.toThrow();
});
