/** The driver for sd-scripts against OpenSSH's server and a stand-in for accelerate. */
import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { existsSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import type { EngineEvent, EngineHandle, TrainingJob } from "../../../src/drivers/driver.ts";
import { createKohyaDriver } from "../../../src/drivers/kohya/index.ts";
import { configToml, samplesJson } from "../../../src/drivers/kohya/training-files.ts";
import { type KohyaHost, makeKohyaHost } from "../../helpers/kohya/host.ts";
import { safetensors } from "../../helpers/kohya/safetensors.ts";
import { startSshd } from "../../helpers/sshd.ts";
import { checkpoint, follow as followRun, inputFile, trainingJob, typesOf } from "../jobs.ts";

const sshd = await startSshd();
afterAll(() => sshd.stop());
const driver = createKohyaDriver({ pace: { everyMs: 20 } });
const signal = AbortSignal.timeout(300_000);

let host: KohyaHost;
beforeEach(() => {
  host = makeKohyaHost(sshd);
});
afterEach(() => host.stop());

async function start(job: TrainingJob, previous?: EngineHandle): Promise<EngineHandle> {
  const handle = driver.prepare(crypto.randomUUID(), job, previous);
  await driver.start(host.target, handle, job, signal);
  return handle;
}

const follow = (handle: EngineHandle) => followRun(driver, host.target, handle, AbortSignal.timeout(60_000));
const train = async (job: TrainingJob, previous?: EngineHandle) => follow(await start(job, previous));

// biome-ignore lint/suspicious/noExplicitAny: settings are looked at, not relied on.
const config = (handle: EngineHandle): any => Bun.TOML.parse(host.read(handle.runId, "config.toml"));
const artifacts = (events: EngineEvent[], role: string) =>
  events.flatMap((event) => (event.type === "artifact" && event.artifact.role === role ? [event.artifact] : []));

describe("what is trained", () => {
  test.each([
    { type: "lora", script: "train_network", settings: { network_module: "networks.lora", network_dim: 4 } },
    { type: "ckp", script: "train_db", settings: { save_model_as: "safetensors" } },
    {
      type: "ti",
      script: "train_textual_inversion",
      settings: { token_string: "atelierconcept", init_word: "cuckoo" },
    },
  ] as const)("$type by $script, with its losses, samples and model", async ({ type, script, settings }) => {
    const job = trainingJob({ type, triggerWords: "Cuckoo bird", steps: 8, learningRate: 1e-4, seed: 5 });
    const handle = await start(job);
    const events = await follow(handle);
    expect(host.read(handle.runId, "run.sh")).toContain(`/${script}.py'`);
    expect(config(handle)).toMatchObject({ ...settings, max_train_steps: 8, learning_rate: 1e-4, seed: 5 });
    const steps = events.filter((event) => event.type === "progress" && event.phase === "steps");
    expect(steps).toEqual(
      Array.from({ length: 8 }, (_, index) => ({
        ...{ type: "progress", phase: "steps", step: index + 1, total: 8 },
        loss: Number((1 / (index + 2)).toPrecision(3)),
      })),
    );
    const samples = artifacts(events, "sample");
    expect(samples.map(({ step }) => step)).toEqual([2, 4, 6, 8]);
    const png = await new Response(await driver.fetch(host.target, samples[0] as never, signal)).bytes();
    expect(Buffer.from(png).subarray(1, 4).toString()).toBe("PNG");
    const [model] = artifacts(events, "model");
    const bytes = await new Response(await driver.fetch(host.target, model as never, signal)).bytes();
    expect(Buffer.from(bytes).equals(safetensors(8))).toBeTrue();
  });

  test("no hypernetwork, no picture of another kind, no checkpoint that is not there: nothing is started", async () => {
    const faults = [
      { job: trainingJob({ type: "hyper" }), errorClass: "bad-input" },
      { job: trainingJob({ checkpoint: "other.safetensors" }), errorClass: "model-missing" },
      { job: trainingJob({ pictures: [{ image: inputFile("x", "avif"), caption: "x" }] }), errorClass: "bad-input" },
    ];
    for (const { job, errorClass } of faults) {
      const handle = driver.prepare(crypto.randomUUID(), job);
      const error = await driver.start(host.target, handle, job, signal).catch((error) => error);
      expect(error).toMatchObject({ name: "EngineError", errorClass });
      expect(await host.submissions(handle.runId)).toBe(0);
    }
  });

  test("SD2 is told from SD1.5, and of SD2 what predicts velocity from what predicts noise", async () => {
    for (const name of ["v2-1_512-ema-pruned.ckpt", "v2-1_768-ema-pruned.ckpt"]) {
      writeFileSync(join(host.base, "checkpoints", name), "weights");
      const handle = await start(trainingJob({ baseModel: "SD2", checkpoint: name, steps: 1 }));
      expect(config(handle)).toMatchObject({ v2: true, v_parameterization: name.includes("768") });
    }
  });
});

describe("what users write", () => {
  const hostile = [
    "'; touch $PWNED; '",
    '"; touch $PWNED; "',
    "$(touch $PWNED) `touch $PWNED`",
    'x"\npretrained_model_name_or_path = "/etc/passwd"\n[[datasets]]\n',
    "x --cn /etc/passwd --w 64",
    "a\0b\r\nsteps: 100%|█| 9/9 [0<0, avr_loss=9]\u2028c",
    '"""\n\\u0022 \\',
    "布穀鳥 🐦 \ud800",
    "{a|b} # comment",
  ];

  test("captions and trigger words are just that", async () => {
    const pwned = join(host.base, "pwned");
    const texts = hostile.map((text) => text.replaceAll("$PWNED", `'${pwned}'`));
    const pictures = texts.map((caption, index) => ({ image: inputFile(`${index}`), caption }));
    for (const triggerWords of [texts.join(" "), ...texts]) {
      // One of them all is enough to be run.
      const job = trainingJob({ type: "ti", pictures, triggerWords, steps: 1 });
      const settings = Bun.TOML.parse(configToml(job, { hasGpu: false, hasTokenizers: false, resumed: 0 }));
      expect(settings).toMatchObject({ pretrained_model_name_or_path: "checkpoint.safetensors" });
      const [sample] = JSON.parse(samplesJson(job));
      expect(Object.keys(sample).sort()).toEqual([
        ...["height", "negative_prompt", "prompt", "sample_steps", "scale", "seed", "width"],
      ]);
    }
    const handle = await start(trainingJob({ type: "ti", pictures, triggerWords: texts.join(" "), steps: 1 }));
    expect(typesOf(await follow(handle)).at(-1)).toBe("finished");
    const captions = host.list(handle.runId, "data").filter((name) => name.endsWith(".txt"));
    expect(captions).toHaveLength(texts.length);
    for (const name of captions) {
      const caption = host.read(handle.runId, `data/${name}`);
      expect(caption.split(/[\r\n\0\u2028]/)).toHaveLength(1);
      expect(caption).toContain("atelierconcept");
    }
    expect(existsSync(pwned)).toBeFalse();
  });

  test("a checkpoint of any name on the host is one argument", async () => {
    const name = `it's "$(touch pwned)" \\u0041.safetensors`;
    const path = join(host.base, "checkpoints", name);
    writeFileSync(path, "weights");
    expect((await driver.listModels(host.target, signal)).checkpoints).toContain(name);
    const handle = await start(trainingJob({ checkpoint: name, steps: 1 }));
    expect(typesOf(await follow(handle)).at(-1)).toBe("finished");
    expect(readlinkSync(join(host.base, "runs", handle.runId, "checkpoint.safetensors"))).toBe(path);
  });

  test("a handle or an artifact of anything else names no path", async () => {
    const { cancel, fetch } = driver;
    const handle = { engine: "kohya", runId: "../..", previousId: null, steps: 1 } as const;
    expect(() => cancel(host.target, handle, signal)).toThrow();
    for (const locator of [
      { runId: "../../../etc", path: "passwd" },
      { runId: crypto.randomUUID(), path: "../config.toml" },
      { runId: crypto.randomUUID(), path: "sample/../../run.sh" },
    ]) {
      const artifact = { role: "sample", contentType: "image/png", locator } as const;
      expect(await fetch(host.target, artifact, signal).catch((error) => error)).toBeInstanceOf(TypeError);
    }
  });
});

describe("a run that ends badly", () => {
  test.each([
    { fault: "oom 2", errorClass: "out-of-memory", says: "ran out of memory" },
    { fault: "killed 2", errorClass: "out-of-memory", says: "killed" },
    { fault: "broken 2", errorClass: "engine-failed", says: "RuntimeError: cannot read" },
    { fault: "no-data", errorClass: "engine-failed", says: "without a model file: the engine found no pictures" },
    { fault: "no-model", errorClass: "engine-failed", says: "without a model file" },
  ])("$fault is $errorClass, in words without the host's paths", async ({ fault, errorClass, says }) => {
    host.setFault(fault);
    const last = (await train(trainingJob())).at(-1);
    expect(last).toMatchObject({ type: "failed", error: { errorClass } });
    const message = last?.type === "failed" ? last.error.message : "";
    expect(message).toContain(says);
    expect(message).not.toContain("/home");
    expect(message).not.toContain(host.base);
  });

  test("a loss that is no number is none", async () => {
    host.setFault("nan");
    const events = await train(trainingJob({ steps: 2 }));
    expect(events.filter((event) => event.type === "progress" && "loss" in event)).toEqual([]);
    expect(typesOf(events).at(-1)).toBe("finished");
  });

  test("a host that goes down in the midst of it has lost it, also when its process ids come again", async () => {
    host.hold();
    const handle = await start(trainingJob());
    await host.running(handle.runId);
    process.kill(-host.pid(handle.runId), "SIGKILL");
    expect(typesOf(await follow(handle)).at(-1)).toBe("lost");
    const other = await start(trainingJob());
    await host.running(other.runId);
    // The same id, and another process behind it.
    writeFileSync(join(host.base, "runs", handle.runId, "pid"), host.read(other.runId, "pid").replace(/ \d+ /, " 1 "));
    expect(typesOf(await follow(handle)).at(-1)).toBe("lost");
  });

  test("canceling ends every process of the run", async () => {
    host.hold();
    const handle = await start(trainingJob());
    await host.running(handle.runId);
    const group = host.pid(handle.runId);
    await driver.cancel(host.target, handle, signal);
    expect(host.processes(group)).toEqual([]);
    expect(typesOf(await follow(handle)).at(-1)).toBe("canceled");
  });

  test("a run that is canceled before it was launched never is", async () => {
    const job = trainingJob();
    const handle = driver.prepare(crypto.randomUUID(), job);
    const pictures = job.pictures.map((picture) => ({
      ...picture,
      image: {
        ...picture.image,
        stream: async () => {
          await driver.cancel(host.target, handle, signal);
          return picture.image.stream();
        },
      },
    }));
    await driver.start(host.target, handle, { ...job, pictures }, signal);
    expect(await host.submissions(handle.runId)).toBe(0);
    expect(typesOf(await follow(handle)).at(-1)).toBe("canceled");
  });
});

describe("going on", () => {
  test("the next attempt goes on from the last whole state, and its progress with it", async () => {
    const job = trainingJob({ steps: 10 });
    host.setFault("cut-state 5");
    const first = await start(job);
    expect(typesOf(await follow(first)).at(-1)).toBe("failed");
    host.setFault("broken 3");
    const second = await start(job, first);
    expect(config(second)).toMatchObject({
      max_train_steps: 6,
      resume: "resume",
    });
    expect(host.list(first.runId)).toEqual([]);
    const events = await follow(second);
    const steps = events.flatMap((event) => (event.type === "progress" && event.phase === "steps" ? [event.step] : []));
    expect(steps).toEqual([5, 6, 7]);
    host.setFault("");
    const third = await start(job, second);
    expect(config(third).max_train_steps).toBe(3);
    expect((await follow(third)).at(-1)).toEqual({ type: "finished" });
  });

  test("a run that failed before its first state hands on the one that it began with", async () => {
    const job = trainingJob({ steps: 10 });
    host.setFault("broken 4");
    const first = await start(job);
    await follow(first);
    host.setFault("no-data");
    const second = await start(job, first);
    await follow(second);
    host.setFault("");
    const third = await start(job, second);
    expect(config(third).max_train_steps).toBe(6);
    expect(typesOf(await follow(third)).at(-1)).toBe("finished");
  });

  test("a training whose result was lost on the way has its last steps done again", async () => {
    const job = trainingJob({ steps: 10 });
    const first = await start(job);
    expect(typesOf(await follow(first)).at(-1)).toBe("finished");
    const second = await start(job, first);
    expect(config(second)).toMatchObject({ max_train_steps: 1, resume: "resume" });
    const events = await follow(second);
    expect(events).toContainEqual(expect.objectContaining({ type: "progress", phase: "steps", step: 10 }));
    expect(typesOf(events).at(-1)).toBe("finished");
  });

  test("the run before is ended, if it still goes on", async () => {
    host.hold();
    const job = trainingJob();
    const first = await start(job);
    await host.running(first.runId);
    const group = host.pid(first.runId);
    const second = await start(job, first);
    expect(host.processes(group)).toEqual([]);
    host.release();
    expect(typesOf(await follow(second)).at(-1)).toBe("finished");
  });

  test("without a state, or with the run of another engine, it begins anew", async () => {
    const job = trainingJob();
    for (const previous of [driver.prepare(crypto.randomUUID(), job), { engine: "comfyui", runId: "x" } as const]) {
      const handle = await start(job, previous);
      expect(config(handle).resume).toBeUndefined();
      expect(typesOf(await follow(handle)).at(-1)).toBe("finished");
    }
  });

  test("the connection may break off: the run goes on, and so does its story", async () => {
    host.hold();
    const handle = await start(trainingJob());
    const story = follow(handle);
    await host.running(handle.runId);
    await sshd.restart();
    host.release();
    const events = await story;
    expect(typesOf(events).at(-1)).toBe("finished");
    expect(typesOf(events).filter((type) => type === "started")).toHaveLength(1);
    expect(await host.submissions(handle.runId)).toBe(1);
  });
});

describe("what is asked of a host", () => {
  test("a probe tells what it can train, its checkpoints, its runs and its host key", async () => {
    host.hold();
    const { runId } = await start(trainingJob());
    await host.running(runId);
    rmSync(join(host.base, "sd-scripts/train_db.py"));
    const report = await driver.probe({ ...host.target, hostKey: undefined }, signal);
    expect(report).toMatchObject({
      engine: "kohya",
      queue: { running: 1, waiting: 0 },
      capabilities: { infer: false, apply: [], train: ["lora", "ti"] },
      models: { checkpoints: [checkpoint] },
      checkpoints: { "SD1.5": checkpoint },
      hostKey: sshd.hostKey,
    });
  });

  test("nothing but a probe connects before the host key is pinned, nor to a host with another", async () => {
    const job = trainingJob();
    const handle = driver.prepare(crypto.randomUUID(), job);
    for (const hostKey of [
      undefined,
      "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJV7eGY0PNvXn9cvq2bYCNwZzJ2lN4b4cY5n1kQ0oS2u",
    ]) {
      const target = { ...host.target, hostKey };
      const refused = { name: "EngineError", errorClass: "untrusted" };
      expect(await driver.start(target, handle, job, signal).catch((error) => error)).toMatchObject(refused);
      expect(await driver.cancel(target, handle, signal).catch((error) => error)).toMatchObject(refused);
      if (hostKey) expect(await driver.probe(target, signal).catch((error) => error)).toMatchObject(refused);
    }
    expect(host.list(handle.runId)).toEqual([]);
  });

  test("without a username it is recognised by its greeting; what serves HTTP is something else", async () => {
    const { username: _, ...anonymous } = host.target;
    expect(await driver.probe(anonymous, signal).catch((error) => error)).toMatchObject({ errorClass: "unauthorized" });
    const server = createServer((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
    await once(server.listen(0, "127.0.0.1"), "listening");
    const web = { ...anonymous, port: (server.address() as AddressInfo).port };
    expect(await driver.probe(web, signal).catch((error) => error)).toMatchObject({ errorClass: "wrong-engine" });
    server.close();
  });

  test("a host without sd-scripts is another engine; a shared_dir by sftp is no directory of its own", async () => {
    rmSync(join(host.base, "sd-scripts"), { recursive: true });
    expect(await driver.probe(host.target, signal).catch((error) => error)).toMatchObject({
      errorClass: "wrong-engine",
    });
    const target = { ...host.target, sharedDir: "sftp://a@b/c" };
    expect(await driver.probe(target, signal).catch((error) => error)).toMatchObject({ errorClass: "bad-input" });
  });
});
