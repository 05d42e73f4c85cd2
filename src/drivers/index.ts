/** The drivers there are, in the order in which an unknown engine is tried. */
import { a1111 } from "./a1111/index.ts";
import { comfyui } from "./comfyui/index.ts";
import type { Driver, EngineName } from "./driver.ts";
import { kohya } from "./kohya/index.ts";

export const drivers: Driver[] = [comfyui, a1111, kohya];

export function driverOf(engine: EngineName): Driver | null {
  return drivers.find((driver) => driver.engine === engine) ?? null;
}
