import { afterAll } from "bun:test";
import { createKohyaDriver } from "../../../src/drivers/kohya/index.ts";
import { makeKohyaHost } from "../../helpers/kohya/host.ts";
import { startSshd } from "../../helpers/sshd.ts";
import { driverContract } from "../contract.ts";
import { trainingJob } from "../jobs.ts";

const sshd = await startSshd();
afterAll(() => sshd.stop());

driverContract("kohya", async () => {
  const host = makeKohyaHost(sshd);
  let seed = 0;
  return {
    target: host.target,
    createDriver: () => createKohyaDriver({ pace: { everyMs: 20 } }),
    createJob: () => trainingJob({ seed: seed++ }),
    hold: host.hold,
    release: host.release,
    running: (runId) => host.running(runId).then(() => {}),
    submissions: host.submissions,
    stop: host.stop,
  };
});
