/**
 * A server of its own process for `bun run bench relay`: ours, or bare: Bun.serve with its topics and nothing else. Tells
 * its port, and its memory whenever a line comes in.
 */
import { boot } from "../../src/boot.ts";
import { serve } from "../../src/serve.ts";

const [kind = ""] = process.argv.slice(2);
process.stdout.write(`${kind === "bare" ? serveBare() : await serveOurs()}\n`);
for await (const _line of console) {
  // What is free goes back to the system a moment later.
  for (let round = 0; round < 3; round += 1) {
    Bun.gc(true);
    await Bun.sleep(500);
  }
  process.stdout.write(`${process.memoryUsage.rss()}\n`);
}
process.exit(0);

async function serveOurs(): Promise<number> {
  const api = await serve(await boot("bench", process.env, 16));
  return api.port;
}

/** Sends what is posted to a topic to all of its sockets, and answers when that began. */
function serveBare(): number {
  const server = Bun.serve<{ topic: string }>({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request, server) {
      const topic = new URL(request.url).pathname;
      if (request.method !== "POST") {
        return server.upgrade(request, { data: { topic } }) ? undefined : new Response(null, { status: 400 });
      }
      const text = await request.text();
      const at = performance.timeOrigin + performance.now();
      server.publish(topic, text);
      return new Response(String(at));
    },
    websocket: {
      open(socket) {
        socket.subscribe(socket.data.topic);
        socket.send('{"type":"snapshot"}');
      },
      message() {},
    },
  });
  return server.port as number;
}
