/** `bun run start`: the API, its sockets and nothing else. */
import { BootError, bearOutages, boot, main } from "./boot.ts";
import { serve } from "./serve.ts";
import { stopOnSignals } from "./up/orphan.ts";

await main(async () => {
  const booted = await boot("api", process.env, 16);
  const { config, sql, log } = booted;
  bearOutages(log);
  const api = await serve(booted).catch((error) => {
    if (error?.code === "EADDRINUSE") throw new BootError(`PORT: ${config.host}:${config.port} is in use`);
    throw error;
  });
  log.info({ host: config.host, port: api.port }, "the API listens");
  stopOnSignals(async () => {
    await api.stop();
    await sql.end({ timeout: 5 });
  });
});
