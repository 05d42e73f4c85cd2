/** GPU servers: everyone sees what there is, admins run them. Passwords and keys go in and never come out. */
import { z } from "zod";
import { addJob } from "../db/queue.ts";
import { type Catalogue, storedSchema } from "../params/catalogue.ts";
import { serverInUse } from "../problems.ts";
import { type Context, defineResource, type Input } from "../rest/define.ts";
import { commonSorts, createdAt, id, name, shownName, updatedAt } from "./common.ts";

const host = z
  .string()
  .trim()
  .min(1)
  .max(253)
  .regex(/^[A-Za-z0-9._:-]+$/, "must be an address or a host name");
const secret = z.string().max(10_000).nullable();

/** `ssh-ed25519 AAAA…` as ssh-keyscan prints it, without the host's name; a comment is dropped. */
const hostKey = z
  .string()
  .max(5_000)
  .trim()
  .transform((text) => text.split(/\s+/).slice(0, 2).join(" "))
  .refine((text) => {
    const [type = "", key = ""] = text.split(" ");
    const blob = /^[A-Za-z0-9+/]+={0,2}$/.test(key) ? Buffer.from(key, "base64") : Buffer.alloc(0);
    return blob.length > 4 + type.length && blob.toString("latin1", 4, 4 + blob.readUInt32BE(0)) === type;
  }, "must be an SSH host key: its type and the key in base64")
  .meta({ examples: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJV7eGY0PNvXn9cvq2bYCNwZzJ2lN4b4cY5n1kQ0oS2u"] });

const sharedDir = z
  .string()
  .max(1_000)
  .refine(isDirectoryOrSftp, "must be an absolute path, or sftp://user@host/path without a password")
  .meta({ examples: ["sftp://atelier@192.0.2.7/opt/ComfyUI/models"] });

function isDirectoryOrSftp(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused.
  if (/[\x00-\x1f\x7f]/.test(text)) return false;
  if (text.startsWith("/")) return isDirectory(text);
  if (!URL.canParse(text)) return false;
  const url = new URL(text);
  if (url.protocol !== "sftp:" || url.hostname === "" || url.username === "" || url.password !== "") return false;
  try {
    decodeURIComponent(url.username);
    return url.search + url.hash === "" && isDirectory(decodeURIComponent(url.pathname));
  } catch {
    return false;
  }
}

/** Absolute, not the root itself, and the same to everybody who reads it. */
function isDirectory(path: string): boolean {
  return /^\/+[^/]/.test(path) && !path.split("/").some((part) => part === "." || part === "..");
}

const shape = (catalogue: Catalogue) => ({
  name,
  type: catalogue.schema("server", "type"),
  engine: catalogue.schema("server", "engine").nullable(),
  ip: host,
  port: catalogue.schema("server", "port"),
  tls: z.boolean(),
  tls_ca: z.string().max(100_000).nullable(),
  slots: catalogue.schema("server", "slots"),
  username: z.string().max(200),
  password: secret,
  private_key: secret,
  host_key: hostKey.nullable(),
  shared_dir: sharedDir.nullable(),
  checkpoints: z.partialRecord(z.enum(["SD1.5", "SD2"]), z.string().min(1).max(500)),
});

/** Seals what is secret; an empty or null one is taken away. */
function toColumns({ sql, secrets }: Context, { password, private_key, checkpoints, ...columns }: Input): Input {
  const sealed = (value: unknown) => (value ? secrets.seal(value as string) : null);
  return {
    ...columns,
    ...(password === undefined ? {} : { password_sealed: sealed(password) }),
    ...(private_key === undefined ? {} : { private_key_sealed: sealed(private_key) }),
    ...(checkpoints === undefined ? {} : { checkpoints: sql.json(checkpoints as never) }),
  };
}

/** Looks at one server soon: what it is and what it can do is learned by asking it. */
function probeSoon({ sql }: Context, serverId: number): Promise<void> {
  return addJob(sql, "probe-servers", { server_id: serverId }, { key: `probe-${serverId}` });
}

const admins = { see: "admin" } as const;

/** Fields that decide what answers, and how: after a change it is asked anew. */
const address = [
  ...["ip", "port", "tls", "tls_ca", "engine", "username", "password", "private_key", "host_key", "shared_dir"],
];

export const servers = defineResource({
  name: "servers",
  singular: "server",
  about: "GPU servers. Everyone sees what there is, admins run them; passwords and keys go in and never come out.",
  id: "integer",
  owner: "null::int",
  fields: {
    id,
    name: shownName,
    type: { schema: storedSchema("server", "type") },
    status: { schema: storedSchema("server", "status") },
    models: {
      schema: z.array(z.object({ type: z.string(), name: z.string() })),
      live: true,
      select: ({ sql }) => sql`null`,
      shape: (_value, row) => row.live_models ?? [],
    },
    engine: { ...admins, schema: storedSchema("server", "engine").nullable() },
    ip: { ...admins, schema: z.string() },
    port: { ...admins, schema: storedSchema("server", "port") },
    tls: { ...admins, schema: z.boolean() },
    tls_ca: { ...admins, schema: z.string().nullable() },
    slots: { ...admins, schema: storedSchema("server", "slots") },
    username: { ...admins, schema: z.string() },
    host_key: { ...admins, schema: z.string().nullable() },
    shared_dir: { ...admins, schema: z.string().nullable() },
    checkpoints: { ...admins, schema: z.record(z.string(), z.string()) },
    queue: { ...admins, schema: z.object({ running: z.int(), waiting: z.int() }).nullable(), live: true },
    error: { ...admins, schema: z.string().nullable() },
    last_seen_at: { ...admins, schema: z.iso.datetime().nullable() },
    created_at: { ...createdAt, ...admins },
    updated_at: { ...updatedAt, ...admins },
  },
  filters: {
    id: { kind: "id", column: "id" },
    name: { kind: "text", column: "name" },
    type: { kind: "enum", column: "type", entry: "server", field: "type" },
    status: { kind: "enum", column: "status", entry: "server", field: "status" },
  },
  sorts: {
    name: commonSorts.name,
    createdAt: { ...commonSorts.createdAt, ...admins },
    updatedAt: { ...commonSorts.updatedAt, ...admins },
  },
  visible: ({ sql }) => sql`true`,
  mayWrite: (viewer) => viewer.admin,
  async prepare({ sql, listModels }, rows) {
    await Promise.all(
      rows.map(async (row) => {
        row.live_models = await listModels(sql, row.id as number);
      }),
    );
  },
  create: {
    by: "admins",
    shape,
    required: ["name", "type", "ip", "port"],
    examples: {
      comfyui: { name: "gpu-1", type: "infer", ip: "192.0.2.7", port: 8188 },
      kohya: {
        ...{ name: "gpu-2", type: "train", engine: "kohya", ip: "192.0.2.8", port: 22, username: "atelier" },
        private_key: "-----BEGIN OPENSSH PRIVATE KEY-----\n…\n-----END OPENSSH PRIVATE KEY-----\n",
      },
    },
    throws: ["name-taken", "conflict"],
    async insert(context, [input = {}]) {
      const { sql } = context;
      const columns = toColumns(context, input);
      const [row] = await sql<{ id: number }[]>`insert into servers ${sql(columns)} returning id`;
      await probeSoon(context, row?.id as number);
      return [{ id: row?.id as number }];
    },
  },
  patch: {
    shape: (catalogue) => ({ ...shape(catalogue), status: z.enum(["closing", "ready"]) }),
    throws: ["name-taken", "conflict"],
    async change(context, { status, ...input }, [row]) {
      const columns = toColumns(context, input);
      const isReprobed = status === "ready" || address.some((field) => field in input);
      if (status === "closing") columns.status = "closing";
      // What was closing stays so until told to be ready; then, as after a new address, asking it decides.
      else if (isReprobed && (status === "ready" || row?.status !== "closing")) columns.status = "initial";
      if (isReprobed) await probeSoon(context, row?.id as number);
      return columns;
    },
  },
  remove: {
    throws: ["in-use"],
    async before({ sql }, rows) {
      const ids = rows.map((row) => row.id as number);
      const [lease] = await sql`select from leases where coalesce(server_id, source_id) = any (${ids}::int[]) limit 1`;
      if (lease) throw serverInUse();
    },
  },
});
