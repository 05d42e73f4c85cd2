/** The pool's figures for Prometheus. */
import { Gauge, type Registry } from "prom-client";
import type { Stats } from "../pool/stats.ts";

/**
 * @param read its failure leaves the gauges empty and says so in `atelier_database_up`
 * @returns brings the gauges up to date: to be awaited before they are printed
 */
export function registerPoolMetrics(registry: Registry, read: () => Promise<Stats>): () => Promise<void> {
  const gauge = <L extends string>(name: string, help: string, labelNames: L[] = []) =>
    new Gauge({ name: `atelier_${name}`, help, labelNames, registers: [registry] });
  const up = gauge("database_up", "Whether the pool's figures could be read");
  const waiting = gauge("tasks_waiting", "Tasks that do not run yet, by what keeps them first", ["type", "reason"]);
  const running = gauge("tasks_running", "Tasks that run", ["type"]);
  const ended = gauge("attempts_last_hour", "Attempts that ended in the last hour, by how", ["type", "outcome"]);
  const waits = gauge("wait_seconds", "From when a task could go to when it went, in the last hour", [
    "type",
    "quantile",
  ]);
  const slots = gauge("slots", "Slots of all servers, by the servers' status", ["type", "status"]);
  const paused = gauge("pool_paused", "1 while an admin has paused the pool");
  const workers = gauge("workers", "Workers that live");
  const room = gauge("workers_room", "Tasks more that they can attend");
  const pending = gauge("webhooks_pending", "Messages to webhooks that are still to be sent");

  return async () => {
    for (const one of [waiting, running, ended, waits, slots, paused, workers, room, pending]) one.reset();
    let stats: Stats;
    try {
      stats = await read();
    } catch {
      up.set(0);
      return;
    }
    up.set(1);
    for (const { type, reason, tasks } of stats.waiting.by_reason) waiting.set({ type, reason }, tasks);
    for (const type of ["train", "infer"] as const) {
      running.set({ type }, stats.running[type]);
      for (const [outcome, count] of Object.entries(stats.throughput[type])) ended.set({ type, outcome }, count);
      const wait = stats.wait_seconds[type];
      if (wait) {
        waits.set({ type, quantile: "0.5" }, wait.p50);
        waits.set({ type, quantile: "0.9" }, wait.p90);
      }
    }
    for (const server of stats.servers) slots.inc({ type: server.type, status: server.status }, server.slots);
    paused.set(stats.paused ? 1 : 0);
    workers.set(stats.workers.alive);
    room.set(stats.workers.room);
    pending.set(stats.webhooks.pending);
  };
}
