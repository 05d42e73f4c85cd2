import { createA1111Driver } from "../../../src/drivers/a1111/index.ts";
import { A1111Double, type A1111DoubleOptions } from "../../helpers/a1111-double.ts";
import { driverContract } from "../contract.ts";
import { inferenceJob } from "../jobs.ts";
import { pace } from "./pace.ts";

const families: A1111DoubleOptions["family"][] = ["A1111", "Forge", "SD.Next"];
for (const family of families) {
  driverContract(`${family} (infer)`, async () => {
    const engine = new A1111Double({ family });
    let seed = 0;
    return {
      target: engine.target,
      createDriver: () => createA1111Driver({ pace }),
      createJob: () => inferenceJob({ seed: seed++ }),
      hold: () => {
        engine.isHeld = true;
      },
      release: () => engine.release(),
      running: (runId) => engine.until(() => engine.isRunning(runId)),
      submissions: (runId) => engine.submissions(runId),
      keepsResults: false,
      stop: () => engine.stop(),
    };
  });
}
