/**
 * Follows one object over its WebSocket. Connections come and go; what is yielded is always the whole object, and its
 * version never decreases. Lists are followed by the same connections, see `watch-list.ts`.
 */
import type { Frame } from "../relay/frames.ts";
import { pause, send, type Transport } from "./http.ts";

/** What we use of a WebSocket: the browsers', Node's, Bun's and Deno's own, and the `ws` package's. */
export interface Socket {
  close(code?: number): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: never) => void): void;
}
export type SocketClass = new (url: string, protocols: string[]) => Socket;

export interface Watched<T> {
  version: number;
  object: T;
}

export interface WatchOptions {
  /** Ends the iteration, without an error. */
  signal?: AbortSignal;
}

interface Connection {
  /** How it ended: whether the object is gone, and whether there had been a snapshot. */
  ended: Promise<{ isGone: boolean; wasAlive: boolean }>;
  close(): void;
}

/** What is done with the frames of a path. */
interface Reader<F, T> {
  take(frame: F): void;
  /** Whether nothing follows. */
  isLast(frame: F): boolean;
  /** What is to be yielded next; null when there is nothing new. */
  next(): T | null;
}

/**
 * Yields the newest state whenever it has changed; a reader that is slow gets the last one, not a backlog. Ends when
 * the object is deleted or out of sight.
 *
 * @throws ProblemError when the object may not be watched: not-found, token-invalid …
 */
export function watch<T extends object>(
  transport: Transport,
  SocketClass: SocketClass | undefined,
  path: string,
  options?: WatchOptions,
): AsyncGenerator<Watched<T>, void, void> {
  let current: Watched<T> | null = null;
  let shown: Watched<T> | null = null;
  return listen<Frame, Watched<T>>(transport, SocketClass, path, options, {
    take(frame) {
      if (frame.type === "delete") return;
      // A connection made anew may reach a process that lags behind: what is older than what was shown is passed over.
      if (current && frame.version < current.version) return;
      if (frame.type === "update" && !current) return;
      const object = frame.type === "snapshot" ? (frame.data as T) : ({ ...current?.object, ...frame.data } as T);
      if (current && frame.version === current.version && isSame(current.object, object)) return;
      current = { version: frame.version, object };
    },
    isLast: (frame) => frame.type === "delete",
    next() {
      if (current === shown) return null;
      shown = current;
      return current && { ...current };
    },
  });
}

/** Yields what a reader makes of a path's frames, over as many connections as it takes. */
export async function* listen<F, T>(
  transport: Transport,
  SocketClass: SocketClass | undefined,
  path: string,
  { signal }: WatchOptions = {},
  reader: Reader<F, T>,
): AsyncGenerator<T, void, void> {
  if (!SocketClass) throw new TypeError("This runtime has no WebSocket: pass one to createClient");
  let finish: { error?: unknown } | null = null;
  let wake = () => {};
  const stopped = new AbortController();
  const stop = () => {
    stopped.abort();
    wake();
  };
  signal?.addEventListener("abort", stop, { once: true });
  if (signal?.aborted) stop();

  const onFrame = (frame: F) => {
    reader.take(frame);
    wake();
    return reader.isLast(frame);
  };

  const follow = async () => {
    for (let failures = 0; !stopped.signal.aborted; ) {
      const connection = connect(transport, SocketClass, path, onFrame);
      stopped.signal.addEventListener("abort", connection.close, { once: true });
      const { isGone, wasAlive } = await connection.ended;
      stopped.signal.removeEventListener("abort", connection.close);
      if (isGone || stopped.signal.aborted) return;
      failures = wasAlive ? 1 : failures + 1;
      // A socket does not say why it was refused; GET does, by the same rule.
      await send(transport, "GET", path, { signal: stopped.signal }).catch((error) => {
        if (isFinal(error)) throw error;
      });
      await pause(transport.backoff(failures), stopped.signal);
    }
  };
  follow().then(
    () => {
      finish = {};
      wake();
    },
    (error) => {
      finish = { error };
      wake();
    },
  );

  try {
    for (;;) {
      if (stopped.signal.aborted) return;
      const value = reader.next();
      if (value !== null) {
        yield value;
        continue;
      }
      if (finish) {
        if ("error" in (finish as { error?: unknown })) throw (finish as { error?: unknown }).error;
        return;
      }
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    signal?.removeEventListener("abort", stop);
    // Not waited for: a socket whose peer is gone takes its time to close.
    stopped.abort();
  }
}

/** @param onFrame answers whether nothing follows */
function connect<F>(
  { url, token }: Transport,
  SocketClass: SocketClass,
  path: string,
  onFrame: (frame: F) => boolean,
): Connection {
  const protocols = ["atelier.v1", ...(token === null ? [] : [`bearer.${token}`])];
  const socket = new SocketClass(`${url.replace(/^http/, "ws")}${path}`, protocols);
  let isGone = false;
  let wasAlive = false;
  const ended = new Promise<Awaited<Connection["ended"]>>((resolve) => {
    socket.addEventListener("message", (event: { data: string }) => {
      wasAlive = true;
      isGone = onFrame(JSON.parse(event.data)) || isGone;
    });
    socket.addEventListener("close", () => resolve({ isGone, wasAlive }));
    // An error is followed by a close; unheard, it would end a Node process.
    socket.addEventListener("error", () => {});
  });
  return { ended, close: () => socket.close(1000) };
}

/** Waiting will not mend a refusal; it may mend a server that is away or busy. */
function isFinal(error: unknown): boolean {
  const { status } = error as { status?: number };
  return status !== undefined && status < 500 && status !== 429;
}

function isSame(a: object, b: object): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
