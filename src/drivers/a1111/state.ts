/** Where a run stands, by polling. */
import type { HttpClient } from "../http.ts";
import { type Progress, progress, type TaskProgress, taskProgress } from "./answers.ts";
import type { A1111Handle } from "./handle.ts";

/** Null on builds that have no such route: those without the web UI. */
export function findTask(
  client: HttpClient,
  taskId: string,
  signal: AbortSignal,
  previewId = -1,
): Promise<TaskProgress | null> {
  const json = { id_task: taskId, id_live_preview: previewId, live_preview: true };
  return client.find("/internal/progress", taskProgress, signal, { method: "POST", json });
}

export function getProgress(client: HttpClient, signal: AbortSignal): Promise<Progress> {
  return client.get("/sdapi/v1/progress?skip_current_image=true", progress, signal);
}

export const isKnown = (task: TaskProgress | null): boolean =>
  task !== null && (task.active || task.queued || task.completed);

export const isIdle = ({ state }: Progress): boolean => state.job_count === 0 && !state.job;

export const isTraining = ({ state }: Progress): boolean => /^train/.test(state.job ?? "");

/**
 * Whether what the engine tells of a training is about this one: it names the pictures' folder while it reads them, and
 * the last file that it saved.
 */
export const names = ({ textinfo }: Progress, handle: A1111Handle): boolean => (textinfo ?? "").includes(handle.runId);
