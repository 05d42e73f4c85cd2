/** Where a run stands, by polling. */
import type { HttpClient } from "../http.ts";
import { type Progress, progress, type TaskProgress, taskProgress } from "./answers.ts";

/** Null on builds that have no such route: those without the web UI. */
export function findTask(
  client: HttpClient,
  taskId: string,
  signal: AbortSignal,
  previewId = -1,
): Promise<TaskProgress | null> {
  const json = { id_task: taskId, id_live_preview: previewId, live_preview: previewId !== null };
  return client.find("/internal/progress", taskProgress, signal, { method: "POST", json });
}

export function getProgress(client: HttpClient, signal: AbortSignal): Promise<Progress> {
  return client.get("/sdapi/v1/progress?skip_current_image=true", progress, signal);
}

export const isKnown = (task: TaskProgress | null): boolean =>
  task !== null && (task.active || task.queued || task.completed);

export const isIdle = ({ state }: Progress): boolean => state.job_count === 0 && !state.job;
