/** What a model file says of itself, in the names that trainers use. Unverified: good for defaults, never for rights. */

/** What a file's maker wrote into it: names to texts. */
export type ModelMetadata = Record<string, string>;

export interface Claims {
  name: string | null;
  /** As the file names it: `stable-diffusion-v1/lora`. */
  architecture: string | null;
  base_model: "SD1.5" | "SD2" | null;
  type: "lora" | "ckp" | "hyper" | "ti" | null;
  trigger_words: string | null;
}

/** @see https://github.com/Stability-AI/ModelSpec */
export function readClaims(metadata: ModelMetadata): Claims {
  const architecture = metadata["modelspec.architecture"] ?? metadata.ss_base_model_version ?? null;
  const [base = "", kind] = (architecture ?? "").toLowerCase().split("/");
  const isLora = kind === "lora" || metadata.ss_network_module !== undefined;
  return {
    name: metadata["modelspec.title"] ?? metadata.ss_output_name ?? null,
    architecture,
    base_model: /^(stable-diffusion-v1|sd_?v?1)/.test(base)
      ? "SD1.5"
      : /^(stable-diffusion-v2|sd_?v?2)/.test(base)
        ? "SD2"
        : null,
    type: isLora ? "lora" : kind === "textual-inversion" ? "ti" : kind === "hypernetwork" ? "hyper" : null,
    trigger_words: metadata["modelspec.trigger_phrase"] ?? null,
  };
}

export interface TrainedModel {
  name: string;
  type: "lora" | "ckp" | "hyper" | "ti";
  base_model: "SD1.5" | "SD2";
  trigger_words: string;
  /** Edge length of the pictures that it was trained on. */
  resolution: number;
  /** The engine's name for the file that it was trained on. */
  checkpoint: string;
}

const adapters = { lora: "/lora", ckp: "", hyper: "/hypernetwork", ti: "/textual-inversion" };

/**
 * What a trained model's file shall say: what its trainer wrote, and what that left out. The name and the trigger words
 * are the user's; a trainer knows at best what its file is called.
 * @see https://github.com/Stability-AI/ModelSpec
 */
export function describeTrained(written: ModelMetadata, model: TrainedModel): ModelMetadata {
  const isV1 = model.base_model === "SD1.5";
  const v2 = model.checkpoint.includes("768") ? "stable-diffusion-v2-768-v" : "stable-diffusion-v2-512";
  return {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": `${isV1 ? "stable-diffusion-v1" : v2}${adapters[model.type]}`,
    // The layout of the original release's keys, as sd-scripts and ComfyUI have it.
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
    "modelspec.resolution": `${model.resolution}x${model.resolution}`,
    ss_base_model_version: isV1 ? "sd_v1" : "sd_v2",
    ...written,
    "modelspec.title": model.name,
    ...(model.trigger_words === "" ? {} : { "modelspec.trigger_phrase": model.trigger_words }),
  };
}
