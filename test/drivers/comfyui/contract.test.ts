import { createComfyuiDriver } from "../../../src/drivers/comfyui/index.ts";
import { ComfyuiDouble } from "../../helpers/comfyui-double.ts";
import { driverContract } from "../contract.ts";
import { inferenceJob, trainingJob } from "../jobs.ts";
import { pace } from "./pace.ts";

for (const generation of ["A", "C"] as const) {
  for (const kind of ["infer", "train"] as const) {
    driverContract(`ComfyUI (${kind}, generation ${generation})`, async () => {
      const engine = new ComfyuiDouble({ generation });
      let seed = 0;
      return {
        target: engine.target,
        createDriver: () => createComfyuiDriver({ pace }),
        createJob: () => (kind === "infer" ? inferenceJob({ seed: seed++ }) : trainingJob({ seed: seed++ })),
        hold: () => {
          engine.held = "steps";
        },
        release: () => engine.release(),
        running: (runId) => engine.until(() => engine.isRunning(runId)),
        submissions: (runId) => engine.submitted.filter((item) => item.id === runId).length,
        stop: () => engine.stop(),
      };
    });
  }
}
