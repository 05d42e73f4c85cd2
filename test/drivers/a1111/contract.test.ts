import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createA1111Driver } from "../../../src/drivers/a1111/index.ts";
import { A1111Double, type A1111DoubleOptions } from "../../helpers/a1111-double.ts";
import { driverContract } from "../contract.ts";
import { inferenceJob, trainingJob } from "../jobs.ts";
import { pace } from "./pace.ts";

interface Kind {
  family: A1111DoubleOptions["family"];
  trains?: "ti" | "hyper";
}
const kinds: Kind[] = [
  { family: "A1111" },
  { family: "Forge" },
  { family: "SD.Next" },
  { family: "A1111", trains: "ti" },
  { family: "A1111", trains: "hyper" },
];

for (const { family, trains } of kinds) {
  driverContract(`${family} (${trains ? `train ${trains}` : "infer"})`, async () => {
    const directory = trains && mkdtempSync(join(tmpdir(), "a1111-"));
    const engine = new A1111Double({ family, directory });
    let seed = 0;
    return {
      target: engine.target,
      createDriver: () => createA1111Driver({ pace }),
      createJob: () => (trains ? trainingJob({ type: trains, seed: seed++ }) : inferenceJob({ seed: seed++ })),
      hold: () => {
        engine.isHeld = true;
      },
      release: () => engine.release(),
      running: (runId) => engine.until(() => engine.isRunning(runId)),
      submissions: (runId) => engine.submissions(runId),
      keepsResults: trains !== undefined,
      stop: async () => {
        await engine.stop();
        if (directory) rmSync(directory, { recursive: true });
      },
    };
  });
}
