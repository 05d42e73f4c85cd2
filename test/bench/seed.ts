/**
 * Rows for the benchmarks: as many images as asked for, a tenth as many models and a fifth as many users, with the skew
 * that real services have: a few users, tags and models hold most of the images.
 */
import type { Sql } from "../../src/db/client.ts";
import { foldWaiting } from "../../src/search/entries.ts";

/** In this many images each, whatever the size: searches are compared at equal numbers of hits. */
export const searchHits = 500;
export const searchWords = { latin: "zebrafinch", chinese: "布穀鳥", character: "鷺" };

const batch = 50_000;

/** @param images at least 10,000 */
export async function seed(sql: Sql, images: number, log: (line: string) => void): Promise<void> {
  const started = performance.now();
  const users = images / 5;
  const models = images / 10;
  // Built at the end in one go; row by row it would take most of the time.
  await sql`drop index search_entries_by_gram`;
  await sql`
    insert into users (name, email, password_hash, created_at)
    select 'user ' || n, 'user' || n || '@example.com', 'x', now() - n * interval '1 second'
    from generate_series(1, ${users}::int) n
  `;
  await sql`insert into tags (name) select 'tag ' || n from generate_series(1, 200) n`;
  await sql`
    insert into files (key, user_id, kind, hash, size, content_type, width, height)
    values ('picture.png', 1, 'picture', ${"a".repeat(64)}, 1, 'image/png', 64, 64),
      ('model.safetensors', 1, 'model', ${"b".repeat(64)}, 1, 'application/octet-stream', null, null)
  `;
  await sql`
    insert into models (name, type, base_model, status, epochs, model_path, hash, public, tag_ids, user_id, created_at)
    select 'model ' || n, (array['lora', 'lora', 'ckp', 'hyper', 'ti'])[1 + n % 5],
      (array['SD1.5', 'SD1.5', 'SD2'])[1 + n % 3], (array['success', 'success', 'success', 'error'])[1 + n % 4], 100,
      'model.safetensors', ${"b".repeat(64)}, random() < 0.6, array[1 + floor(200 * random() ^ 3)::int],
      1 + floor(${users}::int * random() ^ 4)::int, now() - n * interval '3 seconds'
    from generate_series(1, ${models}::int) n
  `;
  for (let done = 0; done < images; done += batch) {
    const count = Math.min(batch, images - done);
    await sql`
      insert into images (name, width, height, prompt, num_inference_steps, guidance_scale, scheduler, seed, base_model,
        file_key, status, public, tag_ids, user_id, model_id, created_at)
      select 'image ' || (n % 5000), 512, 512,
        'word' || floor(5000 * random() ^ 2) || ' of word' || floor(5000 * random() ^ 2)
          || case when n % ${images / searchHits}::int = 0
            then ${` ${searchWords.latin} ${searchWords.chinese}在樹上 ${searchWords.character}`} else '' end,
        20, 7, (array['DDIM', 'K_EULER', 'K_EULER', 'DPMSolverMultistep', 'K_EULER_ANCESTRAL', 'PNDM', 'KLMS'])[1 + n % 7],
        n, (array['SD1.5', 'SD1.5', 'SD2'])[1 + n % 3], 'picture.png',
        case when n % 500 = 0 then 'running' when n % 50 = 0 then 'error' else 'success' end,
        random() < 0.6,
        array[1 + floor(200 * random() ^ 3)::int, 201 - ceil(100 * random() ^ 3)::int],
        1 + floor(${users}::int * random() ^ 4)::int,
        1 + floor(${models}::int * random() ^ 4)::int,
        now() - n * interval '0.3 seconds'
      from generate_series(${done + 1}::int, ${done + count}::int) n
    `;
    await sql`select fold_counts()`;
    log(`${done + count} images after ${Math.round((performance.now() - started) / 1000)} s`);
  }
  await foldAll(sql);
  await sql`create index search_entries_by_gram on search_entries using gin (grams) with (fastupdate = off)`;
  await sql`vacuum analyze`;
  log(`seeded after ${Math.round((performance.now() - started) / 1000)} s`);
}

/** Only the pictures are searched for here; the others' entries are left waiting as they would never be. */
async function foldAll(sql: Sql): Promise<void> {
  await sql`delete from search_entries where resource <> 'images'`;
  while ((await sql.begin((tx) => foldWaiting(tx as unknown as Sql, 20_000))) > 0);
}
