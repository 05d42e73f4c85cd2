/** `bun run worker`: the job runner only. Any number of them, on any hosts. */
import { startWorker } from "../jobs/index.ts";
import { bearOutages, boot, main } from "./boot.ts";
import { temporaryDirectory } from "./storage/index.ts";
import { stopOnSignals } from "./up/orphan.ts";
import { createWebhookGuard } from "./webhooks/guard.ts";

await main(async () => {
  const { config, databaseUrl, sql, secrets, storage, log } = await boot("worker", process.env, 10);
  bearOutages(log);
  const worker = await startWorker(
    {
      sql,
      secrets,
      storage,
      log,
      webhooks: createWebhookGuard(config.webhookNetworks),
      temporaryDirectory: temporaryDirectory(config),
      userQuotaBytes: config.userQuotaBytes,
      maxPlacedBytes: config.maxPlacedBytes,
    },
    { databaseUrl, concurrency: config.workerConcurrency, maxRunning: config.maxRunningPerUser },
  );
  log.info({ workerId: worker.id }, "the worker runs");
  stopOnSignals(async () => {
    await worker.stop();
    await sql.end({ timeout: 5 });
  });
});
