/**
 * `bun run bench throughput`: details and lists against a bare Bun handler that runs the same SQL without
 * authentication, validation or views (with a token: one that looks the token up too). Both in processes of their own,
 * asked in turns, so that what else the machine does meets both.
 */
import { resolve } from "node:path";
import { hashToken } from "../../src/auth/session.ts";
import { connect } from "../../src/db/client.ts";
import { startBenchApp } from "./app.ts";
import { seed } from "./seed.ts";

const rows = Number(process.env.BENCH_ROWS ?? 20_000);
const seconds = Number(process.env.BENCH_SECONDS ?? 2);
const rounds = Number(process.env.BENCH_ROUNDS ?? 5);

if (process.argv[2] === "bare") await serveBare(process.argv[3] ?? "");
else if (process.argv[2] === "ours") await serveOurs(process.argv[3] ?? "");
else await compare();

async function compare(): Promise<void> {
  const app = await startBenchApp();
  await seed(app.sql, rows, (line) => process.stderr.write(`${line}\n`));
  const { token } = await app.logIn(1, false);
  const servers = await Promise.all(["ours", "bare"].map((kind) => start(kind, app.databaseUrl)));
  const cases = [
    { name: "detail, guest", path: "/api/images/PUBLIC", token: "" },
    { name: "detail, token", path: "/api/images/PUBLIC", token },
    { name: "list of 20, guest", path: "/api/images", token: "" },
    { name: "list of 20, token", path: "/api/images", token },
  ];
  const [row] = await app.sql<{ id: number }[]>`select id from images where public limit 1`;
  process.stdout.write(`requests a second, medians of ${rounds} turns of ${seconds} s, 16 at once, ${rows} images\n`);
  for (const { name, path, token } of cases) {
    const figures = servers.map(() => [] as number[]);
    for (let round = 0; round < rounds; round += 1) {
      for (const [index, server] of servers.entries()) {
        const url = `http://127.0.0.1:${server.port}${path.replace("PUBLIC", String(row?.id))}`;
        const client = Bun.spawn([
          process.execPath,
          resolve(import.meta.dirname, "load.ts"),
          url,
          String(seconds),
          "16",
          token,
        ]);
        figures[index]?.push(Number(await new Response(client.stdout).text()));
      }
    }
    const [ours = 0, bare = 1] = figures.map((list) => list.sort((a, b) => a - b)[Math.floor(rounds / 2)] as number);
    process.stdout.write(
      `${name.padEnd(20)} ours ${ours.toFixed(0).padStart(6)}  bare ${bare.toFixed(0).padStart(6)}  ratio ${(ours / bare).toFixed(2)}\n`,
    );
  }
  for (const server of servers) server.process.kill();
  await app.stop();
  process.exit(0);
}

async function start(kind: string, databaseUrl: string) {
  const child = Bun.spawn([process.execPath, import.meta.filename, kind, databaseUrl], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await child.stdout.getReader().read();
  return { process: child, port: Number(new TextDecoder().decode(value)) };
}

async function serveOurs(databaseUrl: string): Promise<void> {
  const { app } = await startBenchApp(databaseUrl);
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: (request) => app.fetch(request, { address: "127.0.0.1" }),
  });
  process.stdout.write(String(server.port));
}

/** The statements are those that our own API sends for these requests as a guest, with the values of a view. */
async function serveBare(databaseUrl: string): Promise<void> {
  const sql = connect(databaseUrl, { max: 8, name: "bare" });
  const fields = sql`
    t.id, t.name, t.width, t.height, t.prompt, t.negative_prompt, t.num_inference_steps, t.guidance_scale, t.scheduler,
    t.seed, t.from_image, t.strength, t.base_model, t.file_key, t.thumbhash, t.status, t.progress, t.error, t.public,
    array(
      select g.name from unnest(t.tag_ids) with ordinality as o (id, place) join tags g on g.id = o.id order by o.place
    ) as tags,
    t.user_id, (select r.id from models r where r.id = t.model_id and r.public) as model_id,
    (select r.id from tasks r where r.id = t.task_id and r.public) as task_id, t.created_at, t.updated_at
  `;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const token = request.headers.get("authorization")?.slice(7);
      if (token) {
        await sql`
          select u.id, u.admin from sessions s join users u on u.id = s.user_id
          where s.token_hash = ${hashToken(token)} and s.status = 'active' and s.expires_at > now() and not u.disabled
        `;
      }
      const id = /^\/api\/images\/(\d+)$/.exec(new URL(request.url).pathname)?.[1];
      if (id) {
        const [row] = await sql`select ${fields} from images t where t.id = ${id} and t.public`;
        return Response.json(row);
      }
      const [list, [sum]] = await Promise.all([
        sql`
          with page as materialized (select t.id from images t where t.public = true order by t.id limit 20)
          select ${fields} from page join images t on t.id = page.id order by t.id
        `,
        sql`select list_total('images', '', array[''], array[-1]) as total`,
      ]);
      return Response.json({ page: 1, page_size: 20, total: sum?.total, next: true, list });
    },
  });
  process.stdout.write(String(server.port));
}
