/** The API as a client sees it: one object asked for, one object followed. Web standards only. */

export type Fields = Record<string, unknown>;

export interface Client {
  /** Where the API is, without a slash at the end. */
  url: string;
  /**
   * @returns null when the server cannot be reached, or cannot answer just now: try again
   * @throws Refused when the answer is no
   */
  get(path: string, signal: AbortSignal): Promise<Fields | null>;
  /** Follows an object until it is gone; goes on by itself when the connection drops. */
  follow(topic: Topic, on: Listener, signal: AbortSignal): Promise<void>;
}

export interface Topic {
  name: string;
  id: string;
}

export interface Listener {
  /** The whole object, after each change. Never older than what was given before. */
  onState(state: Fields): void;
  /** The connection is lost; `onState` tells when it is back. */
  onLost?(): void;
}

/** No, and why, in one line for the terminal. Never holds the token. */
export class Refused extends Error {
  override readonly name = "Refused";
}

const requestTimeoutMs = 10_000;
const pauseMs = { first: 250, most: 5_000 };
/** Nobody is there any more: long enough for a server to be replaced. */
const patienceMs = 5 * 60_000;
/** A dead connection looks like a quiet one. Past this, a new one is made, which brings the whole state. */
const silenceMs = 45_000;

const protocol = "atelier.v1";
/** Close code of a session that has ended. */
const sessionEnded = 4401;

/** @param token null for a guest, who may watch what is public */
export function createClient({ url, token }: { url: string; token: string | null }): Client {
  const headers: Record<string, string> = token === null ? {} : { Authorization: `Bearer ${token}` };

  const get: Client["get"] = async (path, signal) => {
    let answer: Response;
    try {
      answer = await fetch(`${url}/api/${path}`, {
        headers,
        signal: AbortSignal.any([signal, AbortSignal.timeout(requestTimeoutMs)]),
      });
    } catch {
      signal.throwIfAborted();
      return null;
    }
    if (answer.status >= 500 || answer.status === 429) return null;
    const body = (await answer.json().catch(() => null)) as Fields | null;
    if (answer.ok && body) return body;
    const detail = typeof body?.detail === "string" ? body.detail : `${url} is not an Atelier`;
    const hint = token === null && (answer.status === 401 || answer.status === 404) ? "; ATELIER_TOKEN is not set" : "";
    throw new Refused(`${path}: ${printable(detail)} (${answer.status}${hint})`);
  };

  const follow: Client["follow"] = async (topic, { onState, onLost }, signal) => {
    const path = `${topic.name}/${topic.id}`;
    let state: { version: number; data: Fields } | null = null;
    let failures = 0;
    let lostAt = 0;
    for (;;) {
      // A refused upgrade says nothing to a WebSocket client: GET answers the same, with words.
      const isThere = (await get(path, signal)) !== null;
      if (!isThere && state === null && failures === 0 && lostAt === 0) {
        throw new Refused(`${url} cannot be reached, or is not ready`);
      }
      const end = isThere
        ? await listen(path, signal, (frame) => {
            failures = 0;
            lostAt = 0;
            // Another process behind the same address may be a moment behind: never back.
            if (state && frame.version < state.version) return;
            const known: Fields = frame.type === "update" && state ? state.data : {};
            state = { version: frame.version, data: { ...known, ...frame.data } };
            onState(state.data);
          })
        : "lost";
      if (end === "gone") return;
      if (end === "silent") continue;
      lostAt ||= Date.now();
      if (Date.now() - lostAt > patienceMs) {
        throw new Refused(`${url} has not answered for ${patienceMs / 60_000} minutes`);
      }
      onLost?.();
      await pause(Math.min(pauseMs.most, pauseMs.first * 2 ** failures++), signal);
    }
  };

  /** One connection, to its end. */
  const listen = (path: string, signal: AbortSignal, onFrame: (frame: StateFrame) => void) =>
    new Promise<"gone" | "silent" | "lost">((resolve, reject) => {
      const socket = new WebSocket(
        `${url.replace(/^http/, "ws")}/api/${path}`,
        token === null ? [protocol] : [protocol, `bearer.${token}`],
      );
      let timer: ReturnType<typeof setTimeout> | undefined;
      const finish = (settle: () => void) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
        socket.onclose = socket.onerror = socket.onmessage = null;
        socket.close();
        settle();
      };
      const onAbort = () => finish(() => reject(signal.reason));
      const listenOn = () => {
        clearTimeout(timer);
        timer = setTimeout(() => finish(() => resolve("silent")), silenceMs);
      };
      signal.addEventListener("abort", onAbort, { once: true });
      socket.onmessage = ({ data }) => {
        listenOn();
        const frame = JSON.parse(String(data)) as StateFrame | { type: "delete" };
        if (frame.type === "delete") finish(() => resolve("gone"));
        else onFrame(frame);
      };
      socket.onclose = ({ code }) => {
        if (code === sessionEnded) finish(() => reject(new Refused(`${path}: the session has ended`)));
        else finish(() => resolve("lost"));
      };
      socket.onerror = () => {};
      listenOn();
    });

  return { url, get, follow };
}

interface StateFrame {
  type: "snapshot" | "update";
  version: number;
  data: Fields;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
  });
}

/** Without what moves a terminal's cursor: names and messages are other people's text. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ").trim();
}
