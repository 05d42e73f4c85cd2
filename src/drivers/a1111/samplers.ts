/** Our schedulers in the engine's words. */
import { EngineError, type Scheduler, schedulers } from "../driver.ts";
import type { HttpClient } from "../http.ts";
import { named, schedules } from "./answers.ts";

/** After the protocol notes: A1111's name first, then SD.Next's. Aliases are no use, the engine looks up names only. */
const samplers: Record<Scheduler, string[]> = {
  DDIM: ["DDIM"],
  K_EULER: ["Euler"],
  K_EULER_ANCESTRAL: ["Euler a"],
  DPMSolverMultistep: ["DPM++ 2M"],
  PNDM: ["PLMS", "PNDM"],
  KLMS: ["LMS", "LMSD"],
};
/** These come with noise schedules of their own. */
const withoutSchedule: readonly Scheduler[] = ["DDIM", "PNDM"];

export interface Sampler {
  name: string;
  /** The noise schedule, on builds that have it apart from the sampler. */
  schedule?: string;
}

export async function offeredSchedulers(client: HttpClient, signal: AbortSignal): Promise<Scheduler[]> {
  const names = await samplerNames(client, signal);
  return schedulers.filter((scheduler) => samplers[scheduler].some((name) => names.includes(name)));
}

/**
 * An unknown sampler is an error on older builds and becomes another one without a word on newer ones: it is looked up.
 * @throws EngineError "bad-input"
 */
export async function findSampler(client: HttpClient, scheduler: Scheduler, signal: AbortSignal): Promise<Sampler> {
  const [names, known] = await Promise.all([
    samplerNames(client, signal),
    client.find("/sdapi/v1/schedulers", schedules, signal),
  ]);
  const name = samplers[scheduler].find((wanted) => names.includes(wanted));
  if (!name) throw new EngineError("bad-input", `This engine has no scheduler like ${scheduler}`);
  // Left to choose, the engine takes another schedule for some samplers: Karras for DPM++ 2M.
  const uniform = withoutSchedule.includes(scheduler) ? undefined : known?.find((item) => item.name === "uniform");
  return { name, schedule: uniform?.label };
}

async function samplerNames(client: HttpClient, signal: AbortSignal): Promise<string[]> {
  return (await client.get("/sdapi/v1/samplers", named, signal)).map((sampler) => sampler.name);
}
