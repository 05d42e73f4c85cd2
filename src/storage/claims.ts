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
