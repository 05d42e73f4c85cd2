/** The node classes that bring pictures and captions to a training, in ComfyUI's two generations of them. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import type { EngineFiles } from "./files.ts";
import { choice, type InputSpec, integer, link, type NodeClass, text } from "./nodes.ts";
import { encodeLatent } from "./nodes-picture.ts";
import { cropCenter, decodePicture, type Fit, type Picture, resizePicture } from "./picture.ts";
import { PythonError } from "./python.ts";
import type { NodeInputs } from "./values.ts";

const pictureExtensions = new Set([".png", ".jpg", ".jpeg", ".webp"]);

interface CaptionedPicture {
  path: string;
  /** Null when there is no caption file. */
  caption: string | null;
}

/** Pictures of an input folder with their captions; folders named `<repeats>_<name>` repeat theirs. */
async function readDataset(files: EngineFiles, folder: string): Promise<CaptionedPicture[]> {
  const root = files.inputFolder(folder);
  if (!existsSync(root)) throw new PythonError("FileNotFoundError", `[Errno 2] No such file or directory: '${folder}'`);
  const isPicture = (name: string) => pictureExtensions.has(extname(name).toLowerCase());
  const paths: string[] = [];
  for (const entry of readdirSync(root).sort()) {
    const path = join(root, entry);
    if (isPicture(entry)) paths.push(path);
    if (!statSync(path).isDirectory()) continue;
    const repeats = /^(\d+)(?:_|$)/.exec(entry)?.[1];
    const inner = readdirSync(path)
      .sort()
      .filter(isPicture)
      .map((name) => join(path, name));
    for (let i = 0; i < Number(repeats ?? 1); i++) paths.push(...inner);
  }
  if (paths.length === 0) throw new PythonError("ValueError", "No valid images found in input");
  return Promise.all(
    paths.map(async (path) => {
      const captionPath = `${path.slice(0, path.length - extname(path).length)}.txt`;
      return { path, caption: existsSync(captionPath) ? (await readFile(captionPath, "utf8")).trim() : null };
    }),
  );
}

/** A folder's content may change under the same name. */
async function datasetChangeKey(literals: ReadonlyMap<string, unknown>, files: EngineFiles): Promise<string> {
  const root = files.inputFolder(String(literals.get("folder")));
  if (!existsSync(root)) return "";
  const names = readdirSync(root, { recursive: true, encoding: "utf8" }).sort();
  return names.map((name) => `${name} ${statSync(join(root, name)).mtimeMs}`).join("\n");
}

const LoadImageTextSetFromFolderNode: NodeClass = {
  displayName: "Load Image and Text Dataset from Folder",
  category: "loaders",
  module: "comfy_extras.nodes_train",
  description: "Loads a batch of images and caption from a directory for training.",
  required: { folder: choice((files) => files.listInputFolders("top")), clip: link("CLIP") },
  optional: {
    resize_method: choice(["None", "Stretch", "Crop", "Pad"], { default: "None" }),
    width: integer(-1, -1, 10000, { step: 1 }),
    height: integer(-1, -1, 10000, { step: 1 }),
  },
  outputs: [{ type: "IMAGE" }, { type: "CONDITIONING" }],
  isExperimental: true,
  changeKey: datasetChangeKey,
  run: async (inputs, { files }) => {
    const dataset = await readDataset(files, inputs.text("folder"));
    const { clipSkip } = inputs.value("clip", "CLIP");
    const decoded: Picture[] = [];
    for (const { path } of dataset) decoded.push(await decodePicture(await readFile(path)));
    const pictures = await toBatch(decoded, inputs);
    // An empty or missing caption is encoded and then encoded again: one conditioning too many, so the training that
    // follows refuses the set. That is how this generation of ComfyUI is, and drivers have to know it.
    const conditionings = dataset.flatMap(({ caption }) =>
      caption ? [{ text: caption, clipSkip }] : Array.from({ length: 2 }, () => ({ text: "", clipSkip })),
    );
    return {
      outputs: [
        { type: "IMAGE", pictures },
        { type: "CONDITIONING", conditionings },
      ],
    };
  },
};

/** Brings pictures to one size, as a batch needs; without a method they must have it already. */
async function toBatch(pictures: Picture[], inputs: NodeInputs): Promise<Picture[]> {
  const [first] = pictures;
  if (first === undefined) return [];
  const [askedWidth, askedHeight] = [inputs.number("width", -1), inputs.number("height", -1)];
  const width = askedWidth > 0 ? askedWidth : first.width;
  const height = askedHeight > 0 ? askedHeight : first.height;
  const fit = ({ Stretch: "stretch", Crop: "crop", Pad: "pad" } as Record<string, Fit>)[inputs.text("resize_method")];
  if (fit !== undefined) return Promise.all(pictures.map((picture) => resizePicture(picture, width, height, fit)));
  for (const picture of pictures) {
    if (picture.width === first.width && picture.height === first.height) continue;
    const size = `${picture.height}x${picture.width}`;
    throw new PythonError(
      "RuntimeError",
      `Sizes of tensors must match: expected ${first.height}x${first.width}, got ${size}`,
    );
  }
  return pictures;
}

const LoadImageTextDataSetFromFolder: NodeClass = {
  displayName: "Load Image and Text Dataset from Folder",
  category: "dataset/image",
  module: "comfy_extras.nodes_dataset",
  required: { folder: choice((files) => files.listInputFolders("all")) },
  outputs: [
    { type: "IMAGE", name: "images", isList: true },
    { type: "STRING", name: "texts", isList: true },
  ],
  isExperimental: true,
  isSchemaV3: true,
  changeKey: datasetChangeKey,
  run: async (inputs, { files }) => {
    const dataset = await readDataset(files, inputs.text("folder"));
    const pictures: Picture[] = [];
    for (const { path } of dataset) pictures.push(await decodePicture(await readFile(path)));
    return {
      outputs: [
        { type: "IMAGE", pictures },
        { type: "STRING", texts: dataset.map(({ caption }) => caption ?? "") },
      ],
    };
  },
};

/** A node that does one thing to each picture of a list. */
function pictureTransform(
  displayName: string,
  sizes: Record<string, InputSpec>,
  transform: (picture: Picture, inputs: NodeInputs) => Picture | Promise<Picture>,
): NodeClass {
  return {
    displayName,
    category: "dataset/image",
    module: "comfy_extras.nodes_dataset",
    required: { images: link("IMAGE"), ...sizes },
    outputs: [{ type: "IMAGE", name: "images" }],
    isExperimental: true,
    isSchemaV3: true,
    run: async (inputs) => {
      const { pictures } = inputs.value("images", "IMAGE");
      return {
        outputs: [
          { type: "IMAGE", pictures: await Promise.all(pictures.map((picture) => transform(picture, inputs))) },
        ],
      };
    },
  };
}

const ResizeImagesByShorterEdge = pictureTransform(
  "Resize Images by Shorter Edge",
  { shorter_edge: integer(512, 1, 8192) },
  (picture, inputs) => {
    const edge = inputs.number("shorter_edge");
    const scale = edge / Math.min(picture.width, picture.height);
    const fit = (length: number) => Math.max(1, Math.trunc(length * scale + 1e-9));
    return resizePicture(picture, fit(picture.width), fit(picture.height), "stretch");
  },
);

const CenterCropImages = pictureTransform(
  "Center Crop Images",
  { width: integer(512, 1, 8192), height: integer(512, 1, 8192) },
  (picture, inputs) => cropCenter(picture, inputs.number("width"), inputs.number("height")),
);

const MakeTrainingDataset: NodeClass = {
  displayName: "Make Training Dataset",
  category: "dataset",
  module: "comfy_extras.nodes_dataset",
  required: { images: link("IMAGE"), vae: link("VAE"), clip: link("CLIP") },
  optional: { texts: text("") },
  outputs: [
    { type: "LATENT", name: "latents", isList: true },
    { type: "CONDITIONING", name: "conditioning", isList: true },
  ],
  isExperimental: true,
  isInputList: true,
  isSchemaV3: true,
  run: (inputs) => {
    const { pictures } = inputs.value("images", "IMAGE");
    const { clipSkip } = inputs.value("clip", "CLIP");
    const literal = inputs.has("texts") ? [inputs.text("texts")] : [""];
    const given = inputs.optional("texts", "STRING")?.texts ?? literal;
    const texts = given.length === 1 ? pictures.map(() => given[0] ?? "") : given;
    if (texts.length !== pictures.length) {
      const counts = `Number of texts (${texts.length}) does not match number of images (${pictures.length})`;
      throw new PythonError("ValueError", `${counts}. Text list should have length ${pictures.length}, 1, or 0.`);
    }
    const conditionings = texts.map((caption) => ({ text: caption, clipSkip }));
    return { outputs: [encodeLatent(pictures), { type: "CONDITIONING", conditionings }] };
  },
};

/** As ComfyUI 0.3.64 has them. */
export const datasetNodesA = { LoadImageTextSetFromFolderNode };

/** As in 2026. */
export const datasetNodesC = {
  LoadImageTextDataSetFromFolder,
  ResizeImagesByShorterEdge,
  CenterCropImages,
  MakeTrainingDataset,
};
