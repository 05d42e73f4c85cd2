/**
 * The engine's base directory: input/, output/, temp/ and models/, laid out and named as ComfyUI does. Everything
 * that turns a client's text into a path is here, and refuses what would leave its root.
 */
import { createHash, randomUUID } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join, normalize, resolve, sep } from "node:path";
import { PythonError } from "./python.ts";
import { encodeSafetensors } from "./safetensors.ts";

export const fileTypes = ["input", "output", "temp"] as const;
export type FileType = (typeof fileTypes)[number];

export function isFileType(value: unknown): value is FileType {
  return fileTypes.some((type) => type === value);
}

/** Keys of `GET /models`; each is a folder below models/. */
const modelFolders = [
  "checkpoints",
  "loras",
  "vae",
  "text_encoders",
  "diffusion_models",
  "clip_vision",
  "style_models",
  "embeddings",
  "diffusers",
  "vae_approx",
  "controlnet",
  "gligen",
  "upscale_models",
  "hypernetworks",
  "photomaker",
  "classifiers",
];

/** Also looked up below output/: an upload with `type=output&subfolder=loras` makes a LoRA usable. */
const modelFoldersInOutput = ["checkpoints", "loras", "vae"];

const modelExtensions = new Set([".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"]);

/** The base checkpoints, placeholders whose names say which base model and that they are no real weights. */
const demoCheckpoints = [
  { name: "v1-5-pruned-emaonly-demo.safetensors", base: "sd_v1" },
  { name: "v2-1_512-ema-pruned-demo.safetensors", base: "sd_v2" },
];

/** Where the next file of a prefix goes. */
export interface OutputSlot {
  directory: string;
  /** The prefix's last part, to be followed by `_<counter>_.<extension>`. */
  name: string;
  counter: number;
  subfolder: string;
}

/** A picture's name as clients and history have it. */
export interface FileReference {
  filename: string;
  subfolder: string;
  type: FileType;
}

export class EngineFiles {
  private readonly base: string;

  /** Creates what is missing and empties temp/, as ComfyUI does on start; all else survives a restart. */
  constructor(directory: string) {
    this.base = resolve(directory);
    rmSync(this.root("temp"), { recursive: true, force: true });
    for (const type of fileTypes) mkdirSync(this.root(type), { recursive: true });
    for (const folder of modelFolders) mkdirSync(join(this.base, "models", folder), { recursive: true });
    for (const { name, base } of demoCheckpoints) {
      const path = join(this.base, "models", "checkpoints", name);
      if (existsSync(path)) continue;
      const note = "Placeholder of the Atelier demo engine: it holds no weights.";
      const metadata = { "modelspec.title": name, ss_base_model_version: base, demo: note };
      writeFileSync(path, encodeSafetensors({ tensors: new Map(), metadata }));
    }
  }

  root(type: FileType): string {
    return join(this.base, type);
  }

  get modelFolders(): string[] {
    return modelFolders;
  }

  /** Relative names of the model files in `folder`, sorted, or null when there is no such folder key. */
  listModels(folder: string): string[] | null {
    if (!modelFolders.includes(folder)) return null;
    const names = this.modelRoots(folder).flatMap((root) =>
      listFiles(root).filter((name) => modelExtensions.has(extname(name).toLowerCase())),
    );
    return [...new Set(names)].sort();
  }

  /** The path of a listed model file, or null. */
  findModel(folder: string, name: string): string | null {
    if (!modelFolders.includes(folder)) return null;
    for (const root of this.modelRoots(folder)) {
      const path = within(root, name);
      if (path !== null && isFile(path)) return path;
    }
    return null;
  }

  private modelRoots(folder: string): string[] {
    const roots = [join(this.base, "models", folder)];
    if (modelFoldersInOutput.includes(folder)) roots.push(join(this.root("output"), folder));
    return roots;
  }

  /** File names at the top of input/: what LoadImage lists, though it takes files of sub-folders as well. */
  listInputs(): string[] {
    return entries(this.root("input"), "files");
  }

  /** Sub-folders of input/: the top level only, or every level. */
  listInputFolders(depth: "top" | "all"): string[] {
    if (depth === "top") return entries(this.root("input"), "folders");
    const root = this.root("input");
    return readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) =>
        join(entry.parentPath, entry.name)
          .slice(root.length + 1)
          .replaceAll(sep, "/"),
      )
      .sort();
  }

  /** The path of a folder below input/. @throws PythonError "ValueError" when it would leave input/ */
  inputFolder(name: string): string {
    const path = within(this.root("input"), name);
    if (path === null) throw new PythonError("ValueError", `Invalid folder name '${name}'`);
    return path;
  }

  /** The path of LoadImage's `name`, `subfolder/name` or `name [output]`; null when there is no such file. */
  findAnnotated(annotated: string): string | null {
    const { name, type } = splitAnnotation(annotated);
    const path = within(this.root(type ?? "input"), name);
    return path !== null && isFile(path) ? path : null;
  }

  /**
   * Stores an upload as it comes, unlooked at. A different file of the same name is kept and the new one becomes
   * `name (1).ext`; the same bytes are not stored twice.
   *
   * @returns the name to be used from now on, or null when the path would leave its root
   */
  async upload(type: FileType, subfolder: string, name: string, bytes: Uint8Array, overwrite: boolean) {
    const folder = within(this.root(type), subfolder);
    const asked = folder === null ? null : within(folder, name);
    if (folder === null || asked === null || asked === folder) return null;
    await mkdir(folder, { recursive: true });
    const extension = extname(name);
    const stem = name.slice(0, name.length - extension.length);
    let stored = name;
    for (let i = 1; !overwrite && existsSync(join(folder, stored)); i++) {
      if ((await readFile(join(folder, stored))).equals(bytes)) return stored;
      stored = `${stem} (${i})${extension}`;
    }
    await writeWhole(join(folder, stored), bytes);
    return stored;
  }

  /**
   * The next free slot of a prefix such as `jobs/7/img`: the counter goes on from the highest file present, so names
   * are predictable for a prefix that nobody else uses. `%width%`, `%height%` and the date parts are filled in.
   *
   * @throws PythonError when the prefix would leave the root
   */
  nextSlot(type: FileType, prefix: string, width = 0, height = 0): OutputSlot {
    const filled = normalize(fillPrefix(prefix, width, height));
    const name = basename(filled);
    const subfolder = dirname(filled) === "." ? "" : dirname(filled);
    const directory = within(this.root(type), subfolder);
    if (directory === null) {
      throw new PythonError("Exception", "**** ERROR: Saving image outside the output folder is not allowed.");
    }
    mkdirSync(directory, { recursive: true });
    let highest = 0;
    for (const file of entries(directory, "files")) {
      if (!file.startsWith(`${name}_`)) continue;
      const digits = file.slice(name.length + 1).split("_")[0] ?? "";
      if (/^\d+$/.test(digits)) highest = Math.max(highest, Number(digits));
    }
    return { directory, name, counter: highest + 1, subfolder: subfolder.replaceAll(sep, "/") };
  }
}

/** Writes a file so that nobody ever sees half of it. */
export async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  const partial = join(dirname(path), `.${randomUUID()}.partial`);
  try {
    await writeFile(partial, bytes);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

/** Splits `name [temp]` into name and type; a name without such an ending has no type. */
export function splitAnnotation(annotated: string): { name: string; type: FileType | null } {
  for (const type of fileTypes) {
    if (annotated.endsWith(`[${type}]`)) return { name: annotated.slice(0, -type.length - 2).trimEnd(), type };
  }
  return { name: annotated, type: null };
}

/** `path` below `root`, resolved, or null when it would be outside. */
export function within(root: string, path: string): string | null {
  const full = resolve(root, path);
  return full === root || full.startsWith(root + sep) ? full : null;
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

// Directories are read synchronously: they hold tens of files here, and validation stays one plain walk.
function entries(directory: string, kind: "files" | "folders"): string[] {
  return readdirSync(directory, { withFileTypes: true })
    .filter((entry) => (kind === "files" ? entry.isFile() : entry.isDirectory()) && !entry.name.startsWith("."))
    .map((entry) => entry.name)
    .sort();
}

function listFiles(root: string): string[] {
  if (!existsSync(root)) return [];
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.startsWith("."))
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1));
}

function fillPrefix(prefix: string, width: number, height: number): string {
  const now = new Date();
  const two = (value: number) => String(value).padStart(2, "0");
  const parts: Record<string, string> = {
    width: String(width),
    height: String(height),
    year: String(now.getFullYear()),
    month: two(now.getMonth() + 1),
    day: two(now.getDate()),
    hour: two(now.getHours()),
    minute: two(now.getMinutes()),
    second: two(now.getSeconds()),
  };
  return prefix.replaceAll(/%(\w+)%/g, (whole, key: string) => parts[key] ?? whole);
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The sha256 of a file, read in pieces: a large model must not hold up everything else. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest("hex");
}
