/** What a fresh installation needs before anybody can use it: an admin, and the demo engines' servers. */
import { randomBytes } from "node:crypto";
import { hashPassword } from "./auth/password.ts";
import type { Config } from "./config.ts";
import type { Sql } from "./db/client.ts";
import { addJob } from "./db/queue.ts";

const defaultEmail = "admin@atelier.local";

/**
 * Makes the first admin. May run on every start and in several processes at once.
 * @returns the credentials when they were made just now: the password is shown once and never again
 */
export async function ensureAdmin(
  sql: Sql,
  config: Pick<Config, "adminEmail" | "adminPassword">,
): Promise<{ email: string; password: string } | null> {
  const [known] = await sql`select from users where admin limit 1`;
  if (known) return null;
  const email = config.adminEmail ?? defaultEmail;
  const password = config.adminPassword ?? randomBytes(12).toString("base64url");
  const made = await sql`
    insert into users (name, email, password_hash, admin)
    values ('Admin', ${email}, ${await hashPassword(password)}, true)
    on conflict do nothing
    returning id
  `;
  return made.length > 0 ? { email, password } : null;
}

/** Registers the demo engines at their present ports, and forgets those that are no longer started. */
export async function ensureDemoServers(
  sql: Sql,
  engines: { name: string; type: "train" | "infer"; port: number }[],
): Promise<void> {
  await sql.begin(async (tx) => {
    // Two engines may have swapped their ports since the last start.
    await tx`set constraints servers_address_unique deferred`;
    await tx`
      delete from servers s
      where s.name ~ '^demo-(train|infer)(-[0-9]+)?$'
        and s.name <> all (${engines.map((engine) => engine.name)}::text[])
        and not exists (select from leases where coalesce(server_id, source_id) = s.id)
    `;
    for (const { name, type, port } of engines) {
      const [server] = await tx<{ id: number }[]>`
        insert into servers (name, type, engine, ip, port)
        values (${name}, ${type}, 'comfyui', '127.0.0.1', ${port})
        on conflict (name) do update set port = excluded.port, ip = excluded.ip, status = 'initial'
        returning id
      `;
      await addJob(tx as unknown as Sql, "probe-servers", { server_id: server?.id }, { key: `probe-${server?.id}` });
    }
  });
}
