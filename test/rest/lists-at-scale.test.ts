/** What keeps lists fast and true: plans at scale, totals under concurrent writes, heat. */
import { beforeAll, describe, expect, test } from "bun:test";
import type { Sql } from "../../src/db/client.ts";
import { builtinCatalogue } from "../../src/params/catalogue.ts";
import { images } from "../../src/resources/images.ts";
import { deepQuery } from "../../src/rest/deep.ts";
import type { Context } from "../../src/rest/define.ts";
import { maxPage } from "../../src/rest/limits.ts";
import { parseListQuery } from "../../src/rest/listview.ts";
import { pageQuery, totalQuery } from "../../src/rest/page.ts";
import { planList } from "../../src/rest/plan.ts";
import { foldWaiting, matchEntries } from "../../src/search/entries.ts";
import { type Account, startApp } from "../helpers/app.ts";

const app = await startApp();
const { sql } = app;
let owner: Account;
let admin: Account;
const rows = 13_200;

beforeAll(async () => {
  owner = await app.signUp();
  const others = await Promise.all(Array.from({ length: 20 }, () => app.signUp()));
  admin = await app.admin();
  const users = [owner, owner, owner, ...others].map((user) => user.id);
  await sql`insert into tags (name) select 'tag ' || n from generate_series(1, 53) n`;
  await sql`
    insert into models (name, type, base_model, status, epochs, public, user_id)
    select 'm' || n, 'lora', 'SD1.5', 'error', 1, true, ${owner.id} from generate_series(1, 100) n
  `;
  // In three blocks of 65,536 ids, the private ones younger than all public ones.
  for (const start of [1, 65_000, 200_000]) {
    await sql`alter table images alter column id restart with ${sql.unsafe(String(start))}`;
    await addImages(rows / 3, users);
  }
  await sql`select fold_counts()`;
  await sql`analyze`;
}, 60_000);

async function addImages(count: number, users: number[]): Promise<void> {
  await sql`
    insert into images (name, width, height, prompt, num_inference_steps, guidance_scale, scheduler, seed, base_model,
      status, public, tag_ids, user_id, model_id, created_at)
    select 'image ' || n % 2000, 64, 64, 'p', 20, 7, (array['DDIM', 'K_EULER', 'PNDM'])[1 + n % 3], n,
      (array['SD1.5', 'SD2'])[1 + n % 2], case when n % 100 = 0 then 'running' else 'error' end, n % 5 < 3,
      array[1 + n % 50, 1 + (n + 7) % 50, 51 + n % 3], (${users}::int[])[1 + n % ${users.length}::int], 1 + n % 100,
      now() + case when n % 5 < 3 then interval '0' else interval '1 day' end
    from generate_series(1, ${count}::int) n
  `;
}

const contextOf = (account: Account | null): Context =>
  ({
    sql,
    viewer: { id: account?.id ?? null, admin: account === admin, sessionId: null },
    catalogue: builtinCatalogue,
  }) as Context;

interface Node {
  "Node Type": string;
  "Relation Name"?: string;
  "Plan Rows": number;
  Plans?: Node[];
}

const nodesOf = (node: Node): Node[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

describe("no list reads or sorts the whole table", () => {
  const queries = [
    "",
    "user_id=OWNER",
    "public=true",
    "tag=tag 3",
    "status=running",
    "status=error",
    "scheduler=DDIM",
    "base_model=SD2",
    "model_id=5",
    "name=image 7",
    "id=5,6,7",
    "sort=createdAt",
    "sort=updatedAt&order=asc",
    "sort=name",
    "sort=hot",
    "order=desc",
    "user_id=OWNER&status=error",
    "tag=tag 3&tag=tag 10",
    "tag=tag 3,tag 4",
    "tag=tag 3&scheduler=DDIM&model_id=2",
    "tag=tag 3&status=running",
    "tag=tag 3&sort=hot",
    "user_id=OWNER&sort=createdAt",
    "model_id=5&public=true&sort=name",
  ];
  const cases = queries.flatMap((query) => ["guest", "owner", "admin"].map((who) => ({ query, who })));

  test.each(cases)("$who asks for ?$query", async ({ query, who }) => {
    const context = contextOf(who === "guest" ? null : who === "owner" ? owner : admin);
    const parsed = parseListQuery(images, new URLSearchParams(query.replace("OWNER", String(owner.id))), context);
    const plan = await planList(images, parsed, context);
    for (const statement of [pageQuery(plan, { offset: 100, limit: 20, isReversed: false }), deepQuery(plan, 2_000)]) {
      const [explained] = await sql<{ "QUERY PLAN": [{ Plan: Node }] }[]>`explain (format json) ${statement}`;
      const nodes = nodesOf(explained?.["QUERY PLAN"][0].Plan as Node);
      const whole = nodes.filter((node) => node["Node Type"] === "Seq Scan" && node["Relation Name"] === "images");
      expect(whole).toEqual([]);
      const sorts = nodes.filter((node) => node["Node Type"] === "Sort" && node["Plan Rows"] > 500);
      expect(sorts).toEqual([]);
    }
    const [total] = await sql<{ total: number }[]>`${totalQuery(plan)}`;
    expect(total?.total).toBe(await countNaively(query, context));
  });
});

/** The same total by counting. */
async function countNaively(query: string, context: Context): Promise<number> {
  const [row] = await sql<{ count: number }[]>`select count(*) from images where ${naiveWhere(query, context)}`;
  return row?.count as number;
}

function naiveWhere(query: string, { viewer }: Context) {
  const where = [...new URLSearchParams(query.replace("OWNER", String(owner.id)))].flatMap(([name, text]) => {
    const values = text.split(",");
    if (name === "tag") return [sql`tag_ids && array(select id from tags where name = any (${values}::text[]))`];
    return ["sort", "order"].includes(name) ? [] : [sql`${sql(name)}::text = any (${values}::text[])`];
  });
  return sql`
    ${where.reduce((all, one) => sql`${all} and ${one}`, sql`true`)}
    and (public or ${viewer.admin} or user_id is not distinct from ${viewer.id})
  `;
}

describe("a page far out is the one that sorting all rows finds", () => {
  const orders = {
    "": "id",
    "order=desc": "id desc",
    "user_id=OWNER": "id",
    "user_id=OWNER,1,2,3&order=desc": "id desc",
    "public=true&order=desc": "id desc",
    "status=error": "id",
    "tag=tag 52": "id",
    "tag=tag 52,tag 4,tag 11": "id",
    "scheduler=DDIM&base_model=SD2": "id",
    "sort=createdAt": "created_at desc, id desc",
    "sort=createdAt&order=asc": "created_at, id",
    "sort=updatedAt": "updated_at desc, id desc",
    "sort=name": "name, id",
    "sort=hot": "hot desc, id desc",
    "user_id=OWNER&sort=name&order=desc": "name desc, id desc",
  };
  const cases = Object.entries(orders).flatMap(([query, order]) =>
    ["guest", "owner", "admin"].map((who) => ({ query, order, who })),
  );

  test.each(cases)("$who asks for ?$query", async ({ query, order, who }) => {
    const account = who === "guest" ? null : who === "owner" ? owner : admin;
    const found = await sql<{ id: number }[]>`
      select id from images where ${naiveWhere(query, contextOf(account))} order by ${sql.unsafe(order)}
    `;
    const all = found.map(({ id }) => id);
    const pageSize = 50;
    const last = Math.ceil(all.length / pageSize);
    expect(last).toBeGreaterThan(1_000 / pageSize);
    const pages = [1_000 / pageSize + 1, Math.ceil(last * 0.6), last, last + 1, maxPage];
    for (const page of pages) {
      const asked = query.replace("OWNER", String(owner.id));
      const { body } = await app.call("GET", `/api/images?${asked}&page=${page}&pageSize=${pageSize}`, {
        token: account?.token,
      });
      expect({ page, total: body.total, ids: body.list.map((row: { id: number }) => row.id) }).toEqual({
        page,
        total: all.length,
        ids: all.slice((page - 1) * pageSize, page * pageSize),
      });
    }
  });
});

test("totals are exact in every snapshot while others insert, change, publish, delete and fold", async () => {
  const users = [owner.id, admin.id];
  let isOver = false;
  let checks = 0;
  const anyId = () => 1 + Math.floor(Math.random() * rows);
  const writer = async () => {
    for (let i = 0; i < 25; i += 1) {
      await addImages(1 + (i % 3), users);
      await sql`
        update images set public = not public, tag_ids = ${[1, 2 + (i % 5)]}
        where id between ${anyId()} and ${anyId()} and id % 500 = 0
      `.catch((error: Error & { code?: string }) => {
        // Two of these may lock the same rows in opposite orders; one of them is undone then, as others are below.
        if (error.code !== "40P01") throw error;
      });
      await sql`update images set user_id = ${users[i % 2] as number}, status = 'ready' where id = ${anyId()}`;
      await sql`delete from images where id = ${anyId()}`;
      await sql`update images set model_id = null, base_model = 'SD2', scheduler = 'KLMS' where id = ${anyId()}`;
      await sql
        .begin(async (tx) => {
          await tx`update images set name = 'undone', public = not public where id = ${anyId()}`;
          throw new Error("taken back");
        })
        .catch((error: Error) => expect(error.message).toBe("taken back"));
    }
  };
  const folder = async () => {
    while (!isOver) await sql`select fold_counts()`;
  };
  const reader = async () => {
    while (!isOver) {
      const [wrong] = await sql`
        with truth as (
          select '' as dim, '' as value, case when public then -1 else 0 end as scope, id from images
          union all select 'status', status, case when public then -1 else user_id end, id from images
          union all select 'user_id', user_id::text, case when public then -1 else 0 end, id from images
          union all select 'tag', unnest(tag_ids)::text, case when public then -1 else user_id end, id from images
        ), counted as (
          select dim, value, scope, id / 65536 * 65536 as first_id, count(*) as n, sum(count(*)) over (partition by dim, value, scope) as sum
          from truth
          group by dim, value, scope, id / 65536
        )
        select *
        from counted c
        cross join lateral list_total('images', dim, array[value], array[scope])
        left join lateral list_blocks('images', dim, array[value], array[scope]) b on b.first_id = c.first_id
        where c.sum <> total
          or c.n is distinct from b.n
        limit 1
      `;
      expect(wrong).toBeUndefined();
      checks += 1;
    }
  };
  const watching = [folder(), reader()];
  await Promise.all([writer(), writer(), writer()]);
  isOver = true;
  await Promise.all(watching);
  expect(checks).toBeGreaterThan(0);
  await sql`select fold_counts()`;
  const [left] = await sql<{ count: number }[]>`select count(*) from block_count_changes`;
  expect(left?.count).toBe(0);
  const repeated = sql(["public", "user_id", "tag_ids", "scheduler", "base_model", "model_id"]);
  const wrong = await sql`
    (select row_id, tag_id, ${repeated} from image_tags except select id, unnest(tag_ids), ${repeated} from images)
    union all
    (select id, unnest(tag_ids), ${repeated} from images except select row_id, tag_id, ${repeated} from image_tags)
  `;
  expect([...wrong]).toEqual([]);
}, 60_000);

test("a page far out stays where it is while others append, counted from the end though it is", async () => {
  const reader = await app.signUp();
  const fill = (count: number) => sql`
    insert into datasets (name, images, user_id) select 'far', '{}', ${reader.id} from generate_series(1, ${count}::int)
  `;
  await fill(2_400);
  let isOver = false;
  const writing = (async () => {
    while (!isOver) await fill(1);
  })();
  const pages: number[][] = [];
  const totals = new Set<number>();
  for (let round = 0; round < 60; round += 1) {
    const path = `/api/datasets?user_id=${reader.id}&page=24&pageSize=100`;
    const { body } = await app.call("GET", path, { token: reader.token });
    totals.add(body.total);
    pages.push(body.list.map((row: { id: number }) => row.id));
  }
  isOver = true;
  await writing;
  expect(pages[0]).toHaveLength(100);
  for (const page of pages) expect(page).toEqual(pages[0] as number[]);
  expect(totals.size).toBeGreaterThan(1);
});

describe("hot", () => {
  const hotOrder = async (search: string) =>
    (await app.call("GET", `/api/models?sort=hot&name=${search}`)).body.list.map(
      (model: { info: string }) => model.info,
    );
  const add = async (name: string, info: string, ageDays: number, useAgesDays: number[]) => {
    const [model] = await sql<{ id: number }[]>`
      insert into models (name, info, type, base_model, status, epochs, public, user_id, created_at)
      values (${name}, ${info}, 'lora', 'SD1.5', 'error', 1, true, ${owner.id}, now() - ${ageDays} * interval '1 day')
      returning id
    `;
    for (const age of useAgesDays) {
      await sql`insert into uses values ('models', ${model?.id as number}, now() - ${age} * interval '1 day')`;
    }
  };

  test("new and popular comes before old and popular, and that before new and unused", async () => {
    await add("heat", "old and once popular", 60, Array(50).fill(50));
    await add("heat", "new and unused", 0, []);
    await add("heat", "new and popular", 1, Array(50).fill(0));
    await add("heat", "old and popular again", 60, Array(20).fill(1));
    await sql`select fold_uses()`;
    expect(await hotOrder("heat")).toEqual([
      "new and popular",
      "old and popular again",
      "new and unused",
      "old and once popular",
    ]);
  });

  test("twice the uses, or the same uses a week later, weigh the same", async () => {
    await add("weight", "ten a week ago", 30, Array(10).fill(7));
    await add("weight", "five now", 30, Array(5).fill(0));
    await sql`select fold_uses()`;
    const heats = await sql<{ hot: number }[]>`select hot from models where name = 'weight'`;
    expect(Math.abs((heats[0]?.hot ?? 0) - (heats[1]?.hot ?? 9))).toBeLessThan(0.001);
  });

  test("an image made with a model, and one started from an image, count within a fold", async () => {
    const picture = await app.upload(owner.token);
    const [model] = await sql<{ id: number }[]>`select id from models limit 1`;
    const [made] = await sql<{ id: number; hot: number }[]>`
      insert into images (name, width, height, prompt, num_inference_steps, guidance_scale, scheduler, seed, base_model,
        user_id, model_id, file_key)
      values ('x', 64, 64, 'p', 1, 1, 'DDIM', 1, 'SD1.5', ${owner.id}, ${model?.id as number}, ${picture.key})
      returning id, hot
    `;
    await sql`update images set status = 'success' where id = ${made?.id as number}`;
    await app.make("images", owner.token, { prompt: "p", from_image: `/api/images/${made?.id}` });
    await sql`select fold_uses()`;
    const [after] = await sql<{ uses: number; hot: number }[]>`
      select m.uses, i.hot from models m, images i where m.id = ${model?.id as number} and i.id = ${made?.id as number}
    `;
    expect(after?.uses).toBe(1);
    expect(after?.hot).toBeGreaterThan(made?.hot as number);
  });
});

describe("search", () => {
  const names = [
    "布穀鳥在樹上",
    "Cuckoo bird",
    "ＦＵＬＬ width",
    "100% a_b",
    'It\'s "quoted" \\ back',
    "🐦 emoji",
    "歌劇裡的鳥",
    "catalogue",
  ];
  beforeAll(async () => {
    for (const name of names) await app.make("datasets", owner.token, { name, images: [], public: true });
  });

  test.each([
    ["布穀鳥", ["布穀鳥在樹上"]],
    ["布谷鸟", ["布穀鳥在樹上"]],
    ["鳥", ["布穀鳥在樹上", "歌劇裡的鳥"]],
    ["里", ["歌劇裡的鳥"]],
    ["cuckoo bird", ["Cuckoo bird"]],
    ["bird CUCK", ["Cuckoo bird"]],
    ["ucko", ["Cuckoo bird"]],
    ["cu", ["Cuckoo bird"]],
    ["at", []],
    ["full", ["ＦＵＬＬ width"]],
    ["ｃｕｃｋｏｏ", ["Cuckoo bird"]],
    ["%", ["100% a_b"]],
    ["_", ["100% a_b"]],
    ["0% a_b", ["100% a_b"]],
    ["'", ['It\'s "quoted" \\ back']],
    ['"quoted"', ['It\'s "quoted" \\ back']],
    ["\\", ['It\'s "quoted" \\ back']],
    ["🐦", ["🐦 emoji"]],
    ["鳥,emoji", ["布穀鳥在樹上", "🐦 emoji", "歌劇裡的鳥"]],
    ["nowhere", []],
  ])("finds %p", async (words, found) => {
    const { body } = await app.call("GET", `/api/datasets?search=${encodeURIComponent(words as string)}`);
    expect(body.list.map((row: { name: string }) => row.name)).toEqual(found);
    expect(body.total).toBe((found as string[]).length);
  });

  test("repeated search intersects, and a renamed object is found by its new name only", async () => {
    const { body } = await app.call("GET", "/api/datasets?search=bird&search=cuckoo");
    expect(body.total).toBe(1);
    await app.call("PATCH", `/api/datasets/${body.list[0].id}`, { token: owner.token, body: { name: "Nightingale" } });
    expect((await app.call("GET", "/api/datasets?search=cuckoo")).body.total).toBe(0);
    expect((await app.call("GET", "/api/datasets?search=nightin")).body.total).toBe(1);
  });

  test("who finds an object follows its visibility and its owner, whoever changes them", async () => {
    const stranger = await app.signUp();
    const { id } = await app.make("datasets", owner.token, { name: "Waxwing", images: [], public: true });
    const found = async () => {
      const totals = [null, owner, stranger, admin].map(async (viewer) => {
        const { body } = await app.call("GET", "/api/datasets?search=waxwing", { token: viewer?.token });
        expect(body.list).toHaveLength(body.total);
        return body.total;
      });
      return Promise.all(totals);
    };
    expect(await found()).toEqual([1, 1, 1, 1]);
    await app.call("PATCH", `/api/datasets/${id}`, { token: owner.token, body: { public: false } });
    expect(await found()).toEqual([0, 1, 0, 1]);
    await sql`update datasets set user_id = ${stranger.id} where id = ${id}`;
    expect(await found()).toEqual([0, 0, 1, 1]);
    await sql`update datasets set public = true where id = ${id}`;
    expect(await found()).toEqual([1, 1, 1, 1]);
    await sql`delete from datasets where id = ${id}`;
    expect(await found()).toEqual([0, 0, 0, 0]);
  });

  test("one and two Chinese characters are found through the index", async () => {
    for (let round = 0; round < 3; round += 1) await sql.begin((tx) => foldWaiting(tx as unknown as Sql));
    await sql`analyze search_entries`;
    for (const word of ["鳥", "布穀"]) {
      const plan = await sql`explain select from search_entries e where ${matchEntries(sql, "images", [[word]])}`;
      expect(JSON.stringify(plan)).toContain("search_entries_by_gram");
    }
  });

  test("over ten thousand hits are not counted out: total_exact is false, and next still tells the truth", async () => {
    while ((await sql.begin((tx) => foldWaiting(tx as unknown as Sql, rows))) > 0);
    const page = async (query: string) =>
      (await app.call("GET", `/api/images?search=image&${query}`, { token: admin.token })).body;
    const { list, ...head } = await page("pageSize=200");
    expect(head).toEqual({ page: 1, page_size: 200, total: 10_000, total_exact: false, next: true });
    expect(list).toHaveLength(200);
    expect((await page("pageSize=200&page=60")).next).toBe(true);
    expect(await page("pageSize=200&page=1000")).toMatchObject({ total: 10_000, next: false, list: [] });
    expect((await page("search=7")).total_exact).toBeUndefined();
  });
});
