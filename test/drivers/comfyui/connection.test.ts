import { afterEach, expect, test } from "bun:test";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createComfyuiDriver } from "../../../src/drivers/comfyui/index.ts";
import { guessCheckpoints } from "../../../src/drivers/guess-checkpoints.ts";
import { ComfyuiDouble, type DoubleOptions } from "../../helpers/comfyui-double.ts";
import { follow, inferenceJob, typesOf } from "../jobs.ts";
import { pace } from "./pace.ts";

const driver = createComfyuiDriver({ pace });
const signal = AbortSignal.timeout(60_000);
const credentials = { username: "renée", password: "s3cret:word" };
let engine: ComfyuiDouble;
const open = (options?: DoubleOptions) => {
  engine = new ComfyuiDouble(options);
  return engine;
};
afterEach(() => engine.stop());

test.each(["A", "C"] as const)("probing tells what an engine of generation %s is and can do", async (generation) => {
  open({ generation });
  const report = await driver.probe(engine.target, signal);
  expect(report).toMatchObject({
    engine: "comfyui",
    version: "0.3.64",
    devices: [{ name: "cpu", type: "cpu", memoryTotalBytes: 8e9, memoryFreeBytes: 6e9 }],
    queue: { running: 0, waiting: 0 },
    capabilities: { infer: true, apply: ["lora", "ckp"], train: ["lora"], maxUploadBytes: 104857600 },
    checkpoints: { "SD1.5": "v1-5-pruned-emaonly.safetensors", SD2: "v2-1_768-ema-pruned.safetensors" },
    isModelLoaded: null,
  });
  expect(report.capabilities.schedulers).toHaveLength(6);
  expect(report.models).toEqual(await driver.listModels(engine.target, signal));
});

test("with a shared_dir an engine applies every type of model, of any size", async () => {
  open();
  const target = { ...engine.target, sharedDir: "/models" };
  const { capabilities } = await driver.probe(target, signal);
  expect(capabilities).toMatchObject({ apply: ["lora", "ckp", "ti", "hyper"], maxUploadBytes: null });
  delete engine.info.HypernetworkLoader;
  expect((await driver.probe(target, signal)).capabilities.apply).toEqual(["lora", "ckp", "ti"]);
});

test("an engine without training nodes trains nothing", async () => {
  open();
  delete engine.info.SaveLoRANode;
  expect((await driver.probe(engine.target, signal)).capabilities.train).toEqual([]);
});

test.each([
  { names: ["sd15.safetensors", "SDXL/sd_xl_base_1.0.safetensors"], "SD1.5": "sd15.safetensors", SD2: undefined },
  { names: ["SD\\1.5\\dream.ckpt", "768-v-ema.ckpt"], "SD1.5": "SD\\1.5\\dream.ckpt", SD2: "768-v-ema.ckpt" },
  { names: ["sd-v1-4.ckpt", "v1-5-pruned.ckpt", "sd-v1-5-inpainting.ckpt"], "SD1.5": "sd-v1-4.ckpt", SD2: undefined },
  { names: ["sd2.1.safetensors", "flux1-dev.safetensors"], "SD1.5": undefined, SD2: "sd2.1.safetensors" },
])("among $names the base models are found by name", ({ names, ...expected }) => {
  expect(guessCheckpoints(names)).toEqual(Object.fromEntries(Object.entries(expected).filter(([, name]) => name)));
});

test("Basic auth goes with every request and the socket, and nothing names an origin", async () => {
  open({ credentials });
  engine.held = "steps";
  const job = inferenceJob();
  const handle = driver.prepare(crypto.randomUUID(), job);
  await driver.start(engine.target, handle, job, signal);
  const story = follow(driver, engine.target, handle);
  await engine.until(() => engine.connections === 1);
  engine.release();
  expect(typesOf(await story).at(-1)).toBe("finished");
  expect(engine.requests.map(({ line }) => line)).toContain("GET /ws");
  for (const { headers } of engine.requests) {
    expect(headers.get("origin")).toBeNull();
    expect(headers.get("authorization")).toStartWith("Basic ");
  }
});

test("without a username no credentials are sent", async () => {
  open();
  await driver.probe({ ...engine.target, password: "left over" }, signal);
  for (const { headers } of engine.requests) expect(headers.get("authorization")).toBeNull();
});

test("wrong credentials: unauthorized, without naming them", async () => {
  open({ credentials });
  const error = await driver.probe({ ...engine.target, password: "wr0ng" }, signal).catch((error) => error);
  expect(error).toMatchObject({ errorClass: "unauthorized" });
  expect(JSON.stringify(error) + error.message + error.stack).not.toContain("wr0ng");
});

test.each([
  { what: "a page", answer: () => new Response("<html>hello</html>"), errorClass: "wrong-engine" },
  { what: "another engine", answer: () => new Response(null, { status: 404 }), errorClass: "wrong-engine" },
  { what: "a log-in page elsewhere", answer: () => Response.redirect("/login", 302), errorClass: "wrong-engine" },
  { what: "a proxy without an engine", answer: () => new Response(null, { status: 502 }), errorClass: "unreachable" },
  { what: "an engine that breaks", answer: () => new Response(null, { status: 500 }), errorClass: "engine-failed" },
])("$what answers the probe: $errorClass", async ({ answer, errorClass }) => {
  open();
  engine.intercept = answer;
  expect(await driver.probe(engine.target, signal).catch((error) => error)).toMatchObject({ errorClass });
});

test("silence beyond the caller's limit is unreachable, and any other abort is thrown as it is", async () => {
  open();
  engine.intercept = () => new Promise<Response>(() => {});
  const late = await driver.probe(engine.target, AbortSignal.timeout(20)).catch((error) => error);
  expect(late).toMatchObject({ errorClass: "unreachable" });
  const reason = new Error("shutting down");
  expect(await driver.probe(engine.target, AbortSignal.abort(reason)).catch((error) => error)).toBe(reason);
});

test("a result that is cut off on the way is no result", async () => {
  open();
  const artifact = {
    role: "image" as const,
    contentType: "image/png",
    locator: { filename: "x.png", subfolder: "", type: "output" },
  };
  const gone = await driver.fetch(engine.target, artifact, signal).catch((error) => error);
  expect(gone).toMatchObject({ errorClass: "engine-failed" });
  const half = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n0123456789";
  const cutter = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: (socket) => void socket.end(half) } });
  const stream = await driver.fetch({ ...engine.target, port: cutter.port }, artifact, signal);
  expect(await new Response(stream).bytes().catch((error) => error)).toMatchObject({ errorClass: "unreachable" });
  cutter.stop(true);
});

test.skipIf(!Bun.which("openssl"))("an engine behind its own CA is reached over TLS, socket included", async () => {
  const directory = await mkdtemp(join(tmpdir(), "comfyui-tls-"));
  const files = ["-keyout", join(directory, "key.pem"), "-out", join(directory, "cert.pem")];
  const subject = ["-subj", "/CN=engine", "-addext", "subjectAltName=IP:127.0.0.1"];
  const algorithm = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  await Bun.spawn(["openssl", "req", "-x509", ...algorithm, ...files, ...subject], { stderr: "ignore" }).exited;
  const cert = await readFile(join(directory, "cert.pem"), "utf8");
  open({ tls: { cert, key: await readFile(join(directory, "key.pem"), "utf8") } });
  await rm(directory, { recursive: true });
  engine.held = "steps";
  const job = inferenceJob();
  const handle = driver.prepare(crypto.randomUUID(), job);
  await driver.start(engine.target, handle, job, signal);
  const story = follow(driver, engine.target, handle);
  await engine.until(() => engine.connections === 1);
  engine.release();
  expect(typesOf(await story).at(-1)).toBe("finished");
  const stranger = { ...engine.target, tlsCa: undefined };
  expect(await driver.probe(stranger, signal).catch((error) => error)).toMatchObject({ errorClass: "unreachable" });
});
