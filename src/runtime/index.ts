/** The runtime that this process runs on. */
import { listenOnBun } from "./bun.ts";
import { listenOnDeno } from "./deno.ts";
import type { Listen } from "./runtime.ts";

export const listen: Listen = "Deno" in globalThis ? listenOnDeno : listenOnBun;
