/**
 * Rows for the benchmarks: as many images as asked for, a tenth as many models and a fifth as many users, with the skew
 * that real services have: a few users, tags and models hold most of the images. Ten thousand have a whole page of each
 * name and status, so that pages of one length are compared.
 */
import type { Sql } from "../../src/db/client.ts";
import { images } from "../../src/resources/images.ts";
import { models } from "../../src/resources/models.ts";
import { users } from "../../src/resources/users.ts";
import type { Resource } from "../../src/rest/define.ts";
import { searchEntry, searchedColumns } from "../../src/search/entries.ts";

/** In this many images each, whatever the size: searches are compared at equal numbers of hits. */
export const searchHits = 500;
export const searchWords = { latin: "zebrafinch", chinese: "布穀鳥", character: "鷺" };

const tagCount = 200;
const batch = 100_000;
/** What the rows below are written to, directly or by triggers. */
const written = ["users", "models", "model_tags", "images", "image_tags", "search_entries", "block_counts"];

/** @param size images, at least 10,000 */
export async function seed(sql: Sql, size: number, log: (line: string) => void): Promise<void> {
  const started = performance.now();
  const say = (what: string) => log(`${what} after ${Math.round((performance.now() - started) / 1000)} s`);
  const userCount = size / 5;
  const modelCount = size / 10;
  const buildIndexes = await dropIndexes(sql);
  await sql`select setseed(0.5)`; // the same rows in each run
  await sql`
    insert into users (name, email, password_hash, created_at)
    select 'user ' || n, 'user' || n || '@example.com', 'x', now() - n * interval '1 second'
    from generate_series(1, ${userCount}::int) n
  `;
  await sql`insert into tags (name) select 'tag ' || n from generate_series(1, ${tagCount}::int) n`;
  await sql`
    insert into files (key, user_id, kind, hash, size, content_type, width, height)
    select 'picture' || n || '.png', 1, 'picture', lpad(n::text, 64, '0'), 1, 'image/png', 64, 64
    from generate_series(1, 1000) n
    union all
    select 'model.safetensors', 1, 'model', ${"b".repeat(64)}, 1, 'application/octet-stream', null, null
  `;
  await sql`
    insert into models (name, type, base_model, status, epochs, model_path, hash, public, tag_ids, user_id, created_at)
    select 'model ' || n, (array['lora', 'lora', 'ckp', 'hyper', 'ti'])[1 + n % 5],
      (array['SD1.5', 'SD1.5', 'SD2'])[1 + n % 3], (array['success', 'success', 'success', 'error'])[1 + n % 4], 100,
      'model.safetensors', ${"b".repeat(64)}, n = 1 or random() < 0.6, array[1 + floor(${tagCount}::int * random() ^ 3)::int],
      1 + floor(${userCount}::int * random() ^ 4)::int, now() - n * interval '3 seconds'
    from generate_series(1, ${modelCount}::int) n
  `;
  say("users and models");
  for (let done = 0; done < size; done += batch) {
    await sql`
      insert into images (name, width, height, prompt, num_inference_steps, guidance_scale, scheduler, seed, base_model,
        file_key, status, public, tag_ids, user_id, model_id, created_at)
      select 'image ' || (n % 200), 512, 512,
        'word' || floor(5000 * random() ^ 2) || ' of word' || floor(5000 * random() ^ 2)
          || case when n % ${size / searchHits}::int = 0
            then ${` ${searchWords.latin} ${searchWords.chinese}在樹上 ${searchWords.character}`} else '' end,
        20, 7, (array['DDIM', 'K_EULER', 'K_EULER', 'DPMSolverMultistep', 'K_EULER_ANCESTRAL', 'PNDM', 'KLMS'])[1 + n % 7],
        n, (array['SD1.5', 'SD1.5', 'SD2'])[1 + n % 3], 'picture' || 1 + n % 1000 || '.png',
        case when n % 200 = 1 then 'running' when n % 50 = 0 then 'error' else 'success' end,
        random() < 0.6,
        array[1 + floor(${tagCount}::int * random() ^ 3)::int, ${tagCount + 1}::int - ceil(${tagCount / 2}::int * random() ^ 3)::int],
        1 + floor(${userCount}::int * random() ^ 4)::int,
        1 + floor(${modelCount}::int * random() ^ 4)::int,
        now() - n * interval '0.3 seconds'
      from generate_series(${done + 1}::int, ${Math.min(size, done + batch)}::int) n
    `;
  }
  say("images");
  for (const resource of [models, images]) await post(sql, resource);
  for (const { name, lists } of [users, models, images]) await sql`call count_lists(${name}, ${lists?.counted ?? []})`;
  say("tags and totals");
  for (const { name } of [models, images]) await fold(sql, name, searchedColumns[name] ?? []);
  say("words");
  await buildIndexes();
  await sql`vacuum analyze`;
  say("all");
}

/**
 * Leaves the rows to be written in bulk: without the indexes, and without the triggers, whose work `post`,
 * `count_lists` and `fold` do for all rows at once.
 * @returns what builds the indexes again, and turns the triggers on
 */
async function dropIndexes(sql: Sql): Promise<() => Promise<void>> {
  const indexes = await sql<{ name: string; definition: string }[]>`
    select indexname as name, indexdef as definition
    from pg_indexes
    where schemaname = 'public'
      and tablename in ${sql(written)}
      and not exists (select from pg_constraint where conname = indexname)
  `;
  for (const { name } of indexes) await sql`drop index ${sql(name)}`;
  for (const table of written) await sql`alter table ${sql(table)} disable trigger all`;
  for (const table of ["models", "images"]) await sql`alter table ${sql(table)} enable trigger a_start_hot`;
  return async () => {
    await sql`set maintenance_work_mem = '1GB'`;
    for (const { definition } of indexes) await sql.unsafe(definition);
    for (const table of written) await sql`alter table ${sql(table)} enable trigger all`;
  };
}

/** As the triggers of sql/0080_combinations.sql post. */
async function post(sql: Sql, { name, lists }: Resource): Promise<void> {
  const { postings = "", columns = [] } = lists?.tags ?? {};
  const repeated = sql.unsafe(["public", "user_id", "tag_ids", ...columns].join(", "));
  await sql`
    insert into ${sql(postings)} (tag_id, row_id, ${repeated})
    select distinct on (tag_id, public, id) tag_id, id, ${repeated}
    from ${sql(name)}, unnest(tag_ids) tag_id
    order by tag_id, public, id
  `;
}

async function fold(sql: Sql, resource: string, columns: string[]): Promise<void> {
  const quote = (text: string) =>
    text.replace(/[\\\n\t\r]/g, (c) => ({ "\\": "\\\\", "\n": "\\n", "\t": "\\t" })[c] ?? "\\r");
  for (let after = 0; ; ) {
    const rows = await sql<{ id: number; public: boolean; user_id: number }[]>`
      select id, public, user_id, ${sql(columns)} from ${sql(resource)} where id > ${after} order by id limit ${batch}
    `;
    const last = rows.at(-1);
    if (!last) return;
    after = last.id;
    const lines = rows.map((row) => {
      const { text, grams } = searchEntry(
        resource,
        columns.map((column) => row[column as "id"]),
      );
      return `${[resource, row.id, row.public, row.user_id, text, `{${grams.map((gram) => JSON.stringify(gram)).join()}}`].map((v) => quote(String(v))).join("\t")}\n`;
    });
    const copy = await sql`copy search_entries (resource, row_id, public, user_id, text, grams) from stdin`.writable();
    await new Promise<void>((resolve, reject) => {
      copy.once("error", reject).once("finish", resolve).end(lines.join(""));
    });
  }
}
