/** What a program does with the client, in whatever runtime: `journey.ts URL EMAIL PASSWORD` prints what it saw. */
import { createClient, etagOf, ProblemError, type SocketClass } from "../../src/client/index.ts";

const [url = "", email = "", password = ""] = process.argv.slice(2);
// Node has one of its own from version 22.
const WebSocket = (globalThis.WebSocket ?? (await import("ws")).default) as unknown as SocketClass;
const client = createClient({ url, WebSocket });
const saw: unknown[] = [];

saw.push((await client.tags.list()).list.map(({ name }) => name));
await client.login({ email, password });
saw.push((await client.account.get()).email);

const picture = Uint8Array.from(
  atob("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="),
  (byte) => byte.charCodeAt(0),
);
const file = await client.files.upload(new Blob([picture], { type: "image/png" }));
const dataset = await client.datasets.create({ name: "布穀鳥", images: [file.url], tags: ["動物"] });
saw.push([file.width, dataset.name, dataset.image_count]);
saw.push((await client.datasets.list({ tag: ["動物"], search: "布谷鸟" })).total);

const ifMatch = etagOf(dataset) ?? "";
const patched = await client.datasets.patch(dataset.id, { info: "first" }, { ifMatch });
const lost = await client.datasets.patch(dataset.id, { info: "lost" }, { ifMatch }).catch((error) => error);
saw.push([patched.info, lost instanceof ProblemError ? lost.code : lost]);

const infos: string[] = [];
for await (const { object } of client.datasets.watch(dataset.id)) {
  infos.push(object.info);
  if (object.info === "first") await client.datasets.patch(dataset.id, { info: "second" });
  else await client.datasets.delete(dataset.id);
}
saw.push(infos);

await client.logout();
saw.push(await client.account.get().catch(({ status }) => status));
console.log(JSON.stringify(saw));
