/**
 * Prompts. The engine reads its own language in them: `<lora:name:1>` and `<hypernet:name:1>` apply files, `#` starts a
 * comment, an embedding is applied by merely naming it. What users write must reach none of that but weights like
 * `(word:1.2)`: the files on the engine are other people's too.
 */
import { EngineError, type InferenceJob, type ModelType } from "../driver.ts";
import { isOurFile } from "../our-files.ts";

/**
 * The prompts to send. Tags need `<`, so nothing that a user writes can be one: the characters are taken out rather
 * than the tags, since what is left of `<<lora:a:1>lora:b:1>` would be a tag again.
 *
 * @param name the engine's name of the job's own model, null for a checkpoint or none
 * @param embeddings all that the engine knows
 * @throws EngineError "bad-input" when a prompt names an embedding of ours that is not the job's
 */
export function writePrompts(
  job: InferenceJob,
  name: string | null,
  embeddings: readonly string[],
): { prompt: string; negative_prompt: string } {
  const prompt = plain(job.prompt);
  const negative = plain(job.negativePrompt);
  for (const text of [prompt, negative]) {
    const letters = lettersOf(text);
    const other = embeddings.find((known) => known !== name && isOurFile(known) && letters.includes(lettersOf(known)));
    if (other !== undefined)
      throw new EngineError("bad-input", "The prompt names a model file that is not the job's own");
  }
  // Before the user's words: a bracket that is left open in them must not take it in.
  const applied = job.model && name !== null ? apply(job.model.type, name, job.model.weight) : "";
  return { prompt: applied + prompt, negative_prompt: negative };
}

function apply(type: ModelType, name: string, weight: number): string {
  if (type === "lora") return `<lora:${name}:${weight}> `;
  if (type === "hyper") return `<hypernet:${name}:${weight}> `;
  if (type === "ti") return `(${name}:${weight}), `;
  return "";
}

const plain = (text: string): string => text.replaceAll(/[<>#]/g, " ").trim();

/** The engine compares tokens, to which case, spaces and most signs are nothing: so are they here. */
const lettersOf = (text: string): string =>
  text
    .normalize("NFKC")
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]/gu, "");
