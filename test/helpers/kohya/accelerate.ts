/**
 * Stands in for `accelerate launch … train_*.py --config_file F`: reads the same files, prints the same lines and bars,
 * leaves the same files, ends with the same codes. Written from kohya-ss/sd-scripts 48d368fa; it trains nothing.
 *
 * Beside the host's runs, `hold` makes trainings stand still at their second step, and `fault` names one thing to go
 * wrong, with the step at which it does.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { safetensors } from "./safetensors.ts";

type Settings = Record<string, string | number | boolean | undefined>;

const say = (line: string) => process.stdout.write(`${line}\n`);
const draw = (text: string) => process.stderr.write(text);

function fail(trace: string, code = 1): never {
  draw(`\nTraceback (most recent call last):\n  File "/opt/sd-scripts/train.py", line 1, in <module>\n${trace}\n`);
  draw("subprocess.CalledProcessError: Command '['/usr/bin/python', 'train.py']' returned non-zero exit status 1.\n");
  process.exit(code);
}

const [script = "", option, configPath = ""] = process.argv.slice(7);
const launch = "launch --num_processes 1 --num_cpu_threads_per_process 1";
if (process.argv.slice(2, 7).join(" ") !== launch || option !== "--config_file") {
  draw(`${basename(script)}: error: unrecognized arguments: ${process.argv.slice(2).join(" ")}\n`);
  process.exit(2);
}
const config = Bun.TOML.parse(readFileSync(configPath, "utf8")) as Settings;
const out = String(config.output_dir);
const run = process.cwd();
const base = join(run, "../..");
const name = String(config.output_name);
const read = (path: string) => (existsSync(path) ? readFileSync(path, "utf8").trim() : "");
const [fault = "", at = "0"] = read(join(base, "fault")).split(" ");

/** What voluptuous lets through, of what we may want. */
const datasetKeys = {
  general: ["caption_extension", "shuffle_caption"],
  datasets: ["resolution", "batch_size", "enable_bucket", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso"],
  subsets: ["image_dir", "num_repeats", "class_tokens"],
};
type DataSet = { general: Settings; datasets: (Settings & { subsets: Settings[] })[] };
const data = Bun.TOML.parse(readFileSync(String(config.dataset_config), "utf8")) as DataSet;
const check = (settings: Settings, known: string[]) => {
  for (const key of Object.keys(settings)) {
    if (!known.includes(key)) fail(`voluptuous.error.MultipleInvalid: extra keys not allowed @ data['${key}']`);
  }
};
check(data.general, datasetKeys.general);
const [dataset = { subsets: [] as Settings[] } as DataSet["datasets"][number]] = data.datasets;
const { subsets, ...rest } = dataset;
check(rest, datasetKeys.datasets);
for (const subset of subsets) check(subset, datasetKeys.subsets);
const [{ image_dir = "", num_repeats = 1 } = {}] = subsets;
const pictures =
  fault === "no-data" ? [] : readdirSync(String(image_dir)).filter((file) => /\.(png|jpe?g|webp)$/.test(file));
for (const picture of pictures) {
  const caption = read(join(String(image_dir), picture.replace(/\.\w+$/, ".txt")));
  if (caption === "") fail(`ValueError: no caption for ${picture}`);
  if (config.token_string && !caption.includes(String(config.token_string)))
    fail(`ValueError: ${picture} teaches nothing`);
}
if (!existsSync(String(config.pretrained_model_name_or_path))) fail("FileNotFoundError: no such checkpoint");
if (script.endsWith("train_textual_inversion.py") && !config.token_string) fail("TypeError: token_string is None");
if (script.endsWith("train_network.py") && config.network_module !== "networks.lora")
  fail("ImportError: network_module");
if (pictures.length === 0) {
  draw("ERROR    No data found. Please verify arguments (train_data_dir must be the parent of folders with images)\n");
  process.exit(0);
}
if (config.resume) {
  if (!existsSync(join(String(config.resume), "random_states_0.pkl")))
    fail("FileNotFoundError: [Errno 2] random_states_0.pkl");
  say(`resume training from local state: ${config.resume}`);
}

const total = Number(config.max_train_steps);
say("running training / 学習開始");
say(`  num train images * repeats / 学習画像の数×繰り返し回数: ${pictures.length * Number(num_repeats)}`);
say(`  batch size per device / バッチサイズ: ${dataset.batch_size}`);
say(`  total optimization steps / 学習ステップ数: ${total}`);
draw(
  "\x1b[36mcaching latents:   0%|          | 0/2 [00:00<?, ?it/s]\x1b[0m\rcaching latents: 100%|██████████| 2/2 [00:00<00:00]\n",
);
say("\nepoch 1/1\n");
mkdirSync(out, { recursive: true });
mkdirSync(join(base, "at-work"), { recursive: true });

const digits = (number: number, width: number) => String(number).padStart(width, "0");
const state = (step: number) => join(out, `${name}-step${digits(step, 8)}-state`);
const model = (step: number) => join(out, `${name}-step${digits(step, 8)}.safetensors`);
const png = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
  "base64",
);

function save(step: number): void {
  say(`\nsaving checkpoint: ${model(step)}`);
  writeFileSync(model(step), safetensors(step));
  say(`saving state at step ${step}`);
  mkdirSync(state(step), { recursive: true });
  writeFileSync(join(state(step), "train_state.json"), JSON.stringify({ current_epoch: 1, current_step: step }));
  if (fault === "cut-state" && step >= Number(at)) process.kill(process.pid, "SIGKILL");
  writeFileSync(join(state(step), "random_states_0.pkl"), "state");
  const old = step - Number(config.save_last_n_steps) - 1;
  const removed = old - (old % Number(config.save_every_n_steps));
  rmSync(model(removed), { force: true });
  rmSync(state(removed), { force: true, recursive: true });
}

function sample(step: number): void {
  const prompts = JSON.parse(readFileSync(String(config.sample_prompts), "utf8"));
  mkdirSync(join(out, "sample"), { recursive: true });
  draw("  0%|          | 0/20 [00:00<?, ?it/s]\r100%|██████████| 20/20 [00:00<00:00, 99.9it/s]\n");
  for (const [index, { seed }] of prompts.entries()) {
    writeFileSync(
      join(out, "sample", `${name}_${digits(step, 6)}_${digits(index, 2)}_20261125000000_${seed}.png`),
      png,
    );
  }
}

for (let step = 0; step <= total; step += 1) {
  const percent = String(Math.floor((step / total) * 100)).padStart(3);
  const loss = fault === "nan" ? "nan" : (1 / (step + 1)).toPrecision(3);
  const key = script.endsWith("train_textual_inversion.py") ? "loss" : "avr_loss";
  draw(`\rsteps: ${percent}%|████▏     | ${step}/${total} [00:${digits(step, 2)}<00:10,  1.01it/s, ${key}=${loss}]`);
  if (step === 0) continue;
  if (step % Number(config.sample_every_n_steps) === 0) sample(step);
  if (step % Number(config.save_every_n_steps) === 0) save(step);
  writeFileSync(join(base, "at-work", basename(run)), String(step));
  while (step >= 2 && existsSync(join(base, "hold"))) await Bun.sleep(10);
  if (step < Number(at)) continue;
  if (fault === "oom") fail("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB");
  if (fault === "broken") fail("RuntimeError: cannot read /home/painter/secret/file.py");
  if (fault === "killed") process.kill(process.pid, "SIGKILL");
}
draw("\n");
if (fault === "no-model") process.exit(0);
say(`\nsaving checkpoint: ${join(out, `${name}.safetensors`)}`);
writeFileSync(join(out, `${name}.safetensors`), safetensors(total));
say("model saved.");
