/** A WebSocket on every task, opened again whenever it breaks: what it says must never run backwards. */
import type { Json } from "../../helpers/app.ts";
import type { Order } from "./clients.ts";

const endings = ["success", "error", "canceled"];

/** @returns the breaches so far, and a way to end */
export function createWatchers(url: string) {
  const breaches: string[] = [];
  const sockets = new Set<WebSocket>();
  let frames = 0;
  let isOver = false;

  function watch({ taskId, user }: Order): void {
    let version = 0;
    /** Per attempt, the highest progress seen while it ran. */
    const reached = new Map<number, number>();
    const open = () => {
      if (isOver) return;
      let state: Json = null;
      const socket = new WebSocket(`${url.replace("http", "ws")}/api/tasks/${taskId}`, [
        "atelier.v1",
        `bearer.${user.token}`,
      ]);
      sockets.add(socket);
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(String(data));
        frames += 1;
        if (frame.type === "delete") {
          breaches.push(`task ${taskId}: its socket says that it was deleted`);
          return;
        }
        if (frame.version < version) breaches.push(`task ${taskId}: version ${frame.version} after ${version}`);
        version = Math.max(version, frame.version);
        state = frame.type === "snapshot" ? frame.data : { ...state, ...frame.data };
        const { status, attempts, progress } = state;
        if (status === "running") {
          const before = reached.get(attempts) ?? 0;
          if (progress < before) {
            breaches.push(`task ${taskId}, attempt ${attempts}: progress ${progress} after ${before}`);
          }
          reached.set(attempts, progress);
        }
        if (endings.includes(status)) socket.close(1000);
      };
      socket.onclose = () => {
        sockets.delete(socket);
        if (!endings.includes(state?.status)) setTimeout(open, 300);
      };
      socket.onerror = () => {};
    };
    open();
  }

  return {
    watch,
    breaches,
    frames: () => frames,
    stop() {
      isOver = true;
      for (const socket of sockets) socket.close(1000);
    },
  };
}
