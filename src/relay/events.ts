/**
 * The same frames as server-sent events: `GET` with `Accept: text/event-stream` on the path of an object or a list. An
 * event's id is the object's version; whoever comes back with it in `Last-Event-ID` is told what is newer and nothing
 * else.
 */
import { admit, type RelayDeps } from "./admission.ts";
import { closeCodes, Follower } from "./follower.ts";
import type { Message } from "./frames.ts";

/** Keeps the connection open through proxies, and finds out those that are gone. */
const pingMs = 20_000;
const encoder = new TextEncoder();

export function wantsEvents(request: Request): boolean {
  return request.method === "GET" && /(^|[\s,])text\/event-stream([\s,;]|$)/.test(request.headers.get("accept") ?? "");
}

export async function streamEvents(request: Request, address: string | undefined, deps: RelayDeps): Promise<Response> {
  const headers = new Headers(request.headers);
  headers.delete("if-none-match");
  const admitted = await admit(new Request(request.url, { headers }), address, deps);
  if (admitted instanceof Response) return admitted;
  const { target, viewer, answer, leave } = admitted;
  await answer.body?.cancel();
  const lastId = request.headers.get("last-event-id") ?? "";
  const known = /^\d{1,15}$/.test(lastId) ? Number(lastId) : null;
  let stop = () => {};
  const stream = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        const send = (text: string) => controller.enqueue(encoder.encode(text));
        const buffered = () => Math.max(0, -(controller.desiredSize ?? 0));
        const follower = new Follower(
          viewer,
          target,
          {
            send(text) {
              send(text);
              return buffered();
            },
            buffered,
            close(code, reason) {
              end();
              if (code === closeCodes.tryAgain) return controller.error(new Error(reason));
              send(`event: close\ndata: ${JSON.stringify({ code, reason })}\n\n`);
              controller.close();
            },
          },
          toEvent,
          known,
        );
        const pings = setInterval(() => {
          if ((controller.desiredSize ?? 0) >= 0) send(": ping\n\n");
        }, pingMs);
        const end = () => {
          clearInterval(pings);
          leave();
        };
        stop = () => {
          end();
          follower.end();
          deps.hub.unfollow(follower);
        };
        // Something at once, so that whoever asks sees the stream open even when there is nothing new.
        send(": watching\n\n");
        deps.hub.follow(follower);
      },
      cancel: () => stop(),
    },
    new ByteLengthQueuingStrategy({ highWaterMark: 0 }),
  );
  const answered = new Headers(answer.headers);
  for (const name of ["content-length", "etag", "content-encoding"]) answered.delete(name);
  answered.set("Content-Type", "text/event-stream; charset=utf-8");
  answered.set("Cache-Control", "no-store");
  answered.set("X-Accel-Buffering", "no"); // nginx would hold events back
  return new Response(stream, { status: 200, headers: answered });
}

function toEvent({ type, version, text }: Message): string {
  return `${version === null ? "" : `id: ${version}\n`}event: ${type}\ndata: ${text}\n\n`;
}
