/** The thread in which large safetensors headers are parsed, see `readSafetensorsHeader`. */
import { parentPort, workerData } from "node:worker_threads";
import { Problem } from "../problems.ts";
import { parseSafetensorsHeader } from "./safetensors.ts";

try {
  parentPort?.postMessage({ result: parseSafetensorsHeader(workerData.header, workerData.dataBytes) });
} catch (error) {
  if (!(error instanceof Problem)) throw error;
  parentPort?.postMessage({ detail: error.message });
}
