/** What `watch` does with what it hears: a bar for work, lines for anything else, and the result at the end. */
import { type Client, type Fields, printable, Refused, type Topic } from "./client.ts";
import { createEstimate } from "./estimate.ts";
import { formatSeconds, type Screen } from "./screen.ts";

export type Outcome = "success" | "error" | "canceled";

const kinds = new Set(["models", "images", "tasks"]);
/** Between frames only the time left moves. */
const redrawMs = 250;

/** Whether objects of this name are made by tasks: they have a status, progress and an end. */
export function isWork(name: string): boolean {
  return kinds.has(name);
}

/**
 * Follows an object until it has ended, or for ever if its kind has no end.
 * @throws Refused when it cannot be watched, or is deleted; the signal's reason
 */
export async function watch(client: Client, topic: Topic, screen: Screen, signal: AbortSignal): Promise<Outcome> {
  return isWork(topic.name) ? watchWork(client, topic, screen, signal) : watchObject(client, topic, screen, signal);
}

async function watchWork(client: Client, topic: Topic, screen: Screen, signal: AbortSignal): Promise<Outcome> {
  const { name, id } = topic;
  const ended = new AbortController();
  const following = AbortSignal.any([signal, ended.signal]);
  const estimate = createEstimate();
  const startedAt = performance.now();
  let object: Fields | null = null;
  let task: Fields | null = null;
  let taskId: unknown = null;
  let isLost = false;
  let outcome: Outcome | null = null;

  const redraw = () => {
    if (!object || outcome) return;
    const progress = Number(object.progress ?? 0);
    const isRunning = object.status === "running";
    const now = performance.now();
    if (isRunning) estimate.add(progress, now);
    screen.show({
      progress,
      status: String(object.status),
      // The two sockets are a moment apart: a task that is elsewhere already has nothing to say about this status.
      detail: isLost ? "connection lost, trying again" : task?.status === object.status ? describeTask(task) : "",
      secondsLeft: isRunning && !isLost ? estimate.secondsLeft(now) : null,
    });
  };
  /** A model's or an image's task tells the stage and the place in the queue; a guest may not see it. */
  const followTask = () => {
    const wanted = name === "tasks" ? null : (object?.task_id ?? null);
    if (wanted === taskId) return;
    taskId = wanted;
    task = null;
    if (wanted === null) return;
    const onState = (state: Fields) => {
      if (taskId === wanted) task = state;
      redraw();
    };
    client.follow({ name: "tasks", id: String(wanted) }, { onState }, following).catch(() => {});
  };

  const timer = screen.isTerminal ? setInterval(redraw, redrawMs) : undefined;
  try {
    await client.follow(
      topic,
      {
        onState(state) {
          if (!object) screen.print(`Watching ${name}/${id}, ${screen.paint("bold", printable(String(state.name)))}`);
          isLost = false;
          object = state;
          if (name === "tasks") task = state;
          outcome = outcomeOf(state);
          if (outcome) return ended.abort();
          followTask();
          redraw();
        },
        onLost() {
          isLost = true;
          redraw();
        },
      },
      following,
    );
  } catch (error) {
    if (!outcome) throw error;
  } finally {
    clearInterval(timer);
    ended.abort();
    screen.end();
  }
  if (!outcome || !object) throw new Refused(`${name}/${id} has been deleted`);
  if (outcome !== "success") throw new Refused(`${name}/${id}: ${describeFailure(outcome, object)}`);
  const took = formatSeconds((performance.now() - startedAt) / 1000);
  screen.print(`${screen.paint("green", "Done")} after ${took}`);
  for (const [label, url] of await resultsOf(client, name, object, signal)) {
    screen.print(`${screen.paint("dim", label.padEnd(6))}${printable(url)}`);
  }
  return outcome;
}

/** Objects that are not made by tasks have no end: every change is a line, until Ctrl-C. */
async function watchObject(client: Client, topic: Topic, screen: Screen, signal: AbortSignal): Promise<never> {
  let last: Fields | null = null;
  const onState = (state: Fields) => {
    const known = last;
    last = state;
    const changed = Object.entries(state).filter(
      ([field, value]) => field !== "updated_at" && JSON.stringify(value) !== JSON.stringify(known?.[field]),
    );
    if (changed.length === 0) return;
    screen.print(changed.map(([field, value]) => `${field}=${printable(JSON.stringify(value))}`).join(" "));
  };
  await client.follow(topic, { onState, onLost: () => screen.print("connection lost, trying again") }, signal);
  throw new Refused(`${topic.name}/${topic.id} has been deleted`);
}

function outcomeOf({ status, error }: Fields): Outcome | null {
  if (status === "success" || status === "canceled") return status;
  if (status !== "error") return null;
  return (error as { class?: string } | null)?.class === "canceled" ? "canceled" : "error";
}

function describeFailure(outcome: Outcome, { error }: Fields): string {
  if (outcome === "canceled") return "canceled";
  const told = error as { class?: string; detail?: string | null } | null;
  return printable(["failed", told?.class, told?.detail].filter((part) => part).join(": "));
}

/** The stage while it runs, the place in the queue before. */
function describeTask(task: Fields | null): string {
  if (task?.status === "running" && typeof task.stage === "string") return printable(task.stage);
  if (task?.status === "waiting" && typeof task.queue_position === "number") {
    return `number ${task.queue_position} in the queue`;
  }
  return "";
}

/** Where the result is, with a label each. */
async function resultsOf(client: Client, name: string, object: Fields, signal: AbortSignal) {
  const results: [label: string, url: string][] = [];
  const addModel = (model: Fields | null) => {
    if (!model) return;
    results.push(["file", `${client.url}/api/models/${model.id}/file`]);
    if (typeof model.image === "string") results.push(["cover", model.image]);
  };
  const addImage = (image: Fields | null) => {
    if (typeof image?.url === "string") results.push(["image", image.url]);
  };
  // The outcome stands, whatever has become of its parts meanwhile.
  const find = (path: string) =>
    client.get(path, signal).catch((error) => {
      if (error instanceof Refused) return null;
      throw error;
    });
  if (name === "models") addModel(object);
  else if (name === "images") addImage(object);
  else if (object.type === "train") addModel(object.model_id === null ? null : await find(`models/${object.model_id}`));
  else {
    const ids = Array.isArray(object.image_ids) ? (object.image_ids as number[]) : [];
    for (const image of await Promise.all(ids.map((image) => find(`images/${image}`)))) addImage(image);
  }
  return results;
}
