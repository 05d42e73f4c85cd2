/**
 * The list rules as a property: random rows, random queries by random viewers, against a naive model in memory that
 * is written from the contract. A failure prints its seed; `LISTVIEW_SEED` and `LISTVIEW_CASES` repeat or extend it.
 */
import { expect, test } from "bun:test";
import { Converter } from "opencc-js/t2cn";
import { type Account, type Answer, startApp } from "../helpers/app.ts";
import { randomFrom } from "../helpers/random.ts";

const seed = Number(process.env.LISTVIEW_SEED ?? Math.floor(Math.random() * 2 ** 31));
const cases = Number(process.env.LISTVIEW_CASES ?? 2000);
const { next: random } = randomFrom(seed);
const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
const chance = (share: number) => random() < share;

type Row = Record<string, unknown> & { id: number };
type Viewer = { id: number | null; admin: boolean; token?: string };
type Matches = (row: Row, viewer: Viewer) => boolean;

const statuses = ["initial", "ready", "waiting", "running", "success", "error"];
const labels: Record<string, string> = {
  ...{ 初始化: "initial", 就緒: "ready", 等待中: "waiting", 運行中: "running" },
  ...{ 訓練: "train", 推理: "infer" },
};
const tagPool = ["動物", "植物", "水彩", "Bird", "ink wash", "100%"];
const wordPool = [
  "布穀鳥",
  "布谷鸟",
  "鳥",
  "Cuckoo",
  "bird",
  "ｆｕｌｌ",
  "100%",
  "a_b",
  "It's",
  "🐦",
  "裡面",
  "x42",
  "ÉTÉ",
  "ab鳥",
];
const queryPool = [
  ...wordPool,
  "布谷",
  "cuck",
  "cu",
  "b",
  "%",
  "_",
  "4",
  "full",
  "里",
  "été",
  "irds",
  "koo",
  "'",
  "b鸟",
];

interface Kind {
  name: string;
  filters: Record<string, (text: string) => Matches>;
  values: Record<string, () => string>;
  sorts: Record<string, [column: string, direction: 1 | -1]>;
  searched: string[];
  isOwned: boolean;
}

const convert = Converter({ from: "t", to: "cn" });
const foldNaively = (text: string) =>
  [...text.normalize("NFKC").toLowerCase().normalize("NFKC")]
    .map((c) => (/\p{Script=Han}/u.test(c) ? convert(c) : c))
    .join("");

/** One word, by the contract: a part of the text; one or two Latin letters only at the start of a word. */
function byWord(word: string): (folded: string) => boolean {
  if (!/^\p{Script=Latin}{1,2}$/u.test(word)) return (text) => text.includes(word);
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const start = new RegExp(`(?<![\\p{Script=Latin}\\p{N}])${escaped}`, "u");
  return (text) => start.test(text);
}

/** Every word must occur in one of the row's texts. */
function bySearch(words: string): Matches {
  const tests = foldNaively(words).split(/\s+/u).map(byWord);
  return (row) => tests.every((test) => (row.folded as string[]).some(test));
}

const byId =
  (column: string) =>
  (text: string): Matches =>
  (row) =>
    row[column] === Number(text);
const byText =
  (column: string) =>
  (text: string): Matches =>
  (row) =>
    row[column] === text;
const byEnum =
  (column: string) =>
  (text: string): Matches =>
  (row) =>
    row[column] === (labels[text] ?? text);
const byTag = (text: string): Matches => {
  const wanted = text.normalize("NFKC").toLowerCase();
  return (row) => (row.tags as string[]).some((tag) => tag.toLowerCase() === wanted);
};
const byPublic =
  (text: string): Matches =>
  (row) =>
    String(row.public) === text;

test(
  `lists, order, totals and next agree with a naive model (seed ${seed})`,
  async () => {
    const app = await startApp();
    const { sql } = app;
    const users: Account[] = [];
    for (let i = 0; i < 5; i += 1) users.push(await app.signUp(pick(wordPool)));
    const admin = await app.admin();
    const viewers: Viewer[] = [
      { id: null, admin: false },
      ...users.map((user) => ({ id: user.id, admin: false, token: user.token })),
      { id: admin.id, admin: true, token: admin.token },
    ];
    const text = () =>
      Array.from({ length: 1 + Math.floor(random() * 3) }, () => pick(wordPool)).join(chance(0.5) ? " " : "");
    const someTags = () => tagPool.filter(() => chance(0.25));
    const base = () => ({
      name: text(),
      public: chance(0.5),
      user_id: pick(users).id,
      created_at: new Date(Date.UTC(2026, 0, 1 + Math.floor(random() * 5))),
    });

    async function insert(table: string, rows: Record<string, unknown>[], tags = true): Promise<void> {
      for (const row of rows) {
        const [{ ids } = { ids: [] }] = tags
          ? await sql<{ ids: number[] }[]>`select tag_ids(${someTags()}::text[]) as ids`
          : [{ ids: [] }];
        await sql`insert into ${sql(table)} ${sql({ ...row, ...(tags ? { tag_ids: ids } : {}) } as never)}`;
      }
    }
    const many = <T>(count: number, make: () => T) => Array.from({ length: count }, make);
    await insert(
      "datasets",
      many(40, () => ({ ...base(), info: chance(0.5) ? text() : "" })),
    );
    await sql`
    insert into files (key, user_id, kind, hash, size, content_type, width, height)
    values ('k.png', ${users[0]?.id as number}, 'picture', ${"a".repeat(64)}, 1, 'image/png', 1, 1),
      ('m.safetensors', ${users[0]?.id as number}, 'model', ${"b".repeat(64)}, 1, 'application/octet-stream', null, null)
  `;
    const datasetIds = (await sql<{ id: number }[]>`select id from datasets`).map((row) => row.id);
    await insert(
      "models",
      many(60, () => ({
        ...base(),
        type: pick(["lora", "ckp", "hyper", "ti"]),
        base_model: pick(["SD1.5", "SD2"]),
        trigger_words: chance(0.4) ? text() : "",
        status: pick(statuses),
        epochs: 1,
        model_path: "m.safetensors",
        hash: pick(["b", "4", "0"]).repeat(64),
        dataset_id: chance(0.5) ? pick(datasetIds) : null,
      })),
    );
    const modelIds = (await sql<{ id: number }[]>`select id from models`).map((row) => row.id);
    await insert(
      "tasks",
      many(60, () => ({
        ...base(),
        type: pick(["train", "infer"]),
        status: pick(statuses.slice(0, 4)),
        base_model: pick(["SD1.5", "SD2"]),
        model_id: null,
      })),
      false,
    );
    await insert(
      "images",
      many(150, () => ({
        ...base(),
        width: 64,
        height: 64,
        prompt: text(),
        num_inference_steps: 1,
        guidance_scale: 1,
        scheduler: pick(["DDIM", "K_EULER", "PNDM"]),
        seed: 1,
        base_model: pick(["SD1.5", "SD2"]),
        file_key: "k.png",
        status: pick(statuses),
        model_id: chance(0.6) ? pick(modelIds) : null,
      })),
    );
    // Enough of them that far pages are read from the other end.
    await sql`
    insert into images (name, public, user_id, created_at, width, height, prompt, num_inference_steps, guidance_scale,
      scheduler, seed, base_model, file_key, status, model_id, tag_ids)
    select name, public, user_id, created_at, width, height, prompt, num_inference_steps, guidance_scale,
      scheduler, seed, base_model, file_key, status, model_id, tag_ids
    from images
    cross join generate_series(1, 15)
  `;
    // What lists are kept by must follow every kind of change, not only inserts; some of it folded, some not.
    await sql`update images set hot = hot + random() * 2, public = not public where id % 7 = 0`;
    await sql`update models set hot = hot + random() * 2, status = 'error' where id % 5 = 0`;
    await sql`select fold_counts()`;
    await sql`update images set tag_ids = tag_ids[2:] where id % 3 = 0`;
    await sql`update tasks set name = 'renamed' where id % 4 = 0`;
    await sql`update images set user_id = ${users[1]?.id as number} where id % 11 = 0`;
    await sql`delete from images where id % 13 = 0`;
    await sql`delete from models where id % 9 = 0`;
    const { foldWaiting } = await import("../../src/search/entries.ts");
    while ((await sql.begin((tx) => foldWaiting(tx as never))) > 0);

    const tagNames = new Map(
      (await sql<{ id: number; name: string }[]>`select id, name from tags`).map((t) => [t.id, t.name]),
    );
    const tables: Record<string, Row[]> = {};
    for (const table of ["users", "tags", "datasets", "models", "tasks", "images"]) {
      const rows = await sql<
        Row[]
      >`select *, extract(epoch from created_at) as created, extract(epoch from updated_at) as updated from ${sql(table)}`;
      tables[table] = rows.map((row) => ({
        ...row,
        created: Number(row.created),
        updated: Number(row.updated),
        tags: ((row.tag_ids as number[]) ?? []).map((id) => tagNames.get(id) ?? ""),
      }));
    }

    const anyId =
      (rows: Row[] = []) =>
      () =>
        String(chance(0.9) ? pick(rows).id : pick([0, 999_999, 4_000_000_000]));
    const common: Kind["sorts"] = { createdAt: ["created", -1], updatedAt: ["updated", -1], name: ["name", 1] };
    const owned = (name: string): Pick<Kind, "filters" | "values"> => ({
      filters: { id: byId("id"), user_id: byId("user_id"), public: byPublic, name: byText("name") },
      values: {
        id: anyId(tables[name]),
        user_id: anyId(tables.users),
        public: () => pick(["true", "false"]),
        name: () => pick(tables[name] ?? []).name as string,
      },
    });
    const add = (kind: Kind, filters: Kind["filters"], values: Kind["values"]): Kind => ({
      ...kind,
      filters: { ...kind.filters, ...filters },
      values: { ...kind.values, ...values },
    });
    const status = () => pick([...statuses.slice(0, 3), "success", "就緒", "等待中"]);
    /** A reference counts only for who may see what it is to. */
    const byReference =
      (column: string, table: string) =>
      (text: string): Matches => {
        const target = tables[table]?.find((row) => row.id === Number(text));
        return (row, viewer) => target !== undefined && row[column] === target.id && isVisible(target, viewer);
      };
    const tagged = { tag: byTag };
    const anyTag = { tag: () => pick([...tagPool, "BIRD", "nothing"]) };
    const kinds: Kind[] = [
      {
        name: "users",
        isOwned: false,
        searched: ["name"],
        sorts: { createdAt: ["created", -1], name: ["name", 1] },
        filters: { id: byId("id"), name: byText("name") },
        values: { id: anyId(tables.users), name: () => pick(wordPool) },
      },
      {
        name: "tags",
        isOwned: false,
        searched: ["name"],
        sorts: common,
        filters: { id: byId("id"), name: byText("name") },
        values: { id: anyId(tables.tags), name: () => pick(tagPool) },
      },
      add(
        { name: "datasets", isOwned: true, searched: ["name", "info"], sorts: common, ...owned("datasets") },
        tagged,
        anyTag,
      ),
      add(
        {
          name: "models",
          isOwned: true,
          searched: ["name", "trigger_words", "autov2"],
          sorts: { ...common, hot: ["hot", -1] },
          ...owned("models"),
        },
        {
          ...tagged,
          type: byText("type"),
          status: byEnum("status"),
          base_model: byText("base_model"),
          dataset_id: byReference("dataset_id", "datasets"),
        },
        {
          ...anyTag,
          type: () => pick(["lora", "ckp", "ti"]),
          status,
          base_model: () => pick(["SD1.5", "SD2"]),
          dataset_id: anyId(tables.datasets),
        },
      ),
      add(
        { name: "tasks", isOwned: true, searched: ["name"], sorts: common, ...owned("tasks") },
        { type: byEnum("type"), status: byEnum("status") },
        { type: () => pick(["train", "infer", "訓練", "推理"]), status },
      ),
      add(
        {
          name: "images",
          isOwned: true,
          searched: ["name", "prompt"],
          sorts: { ...common, hot: ["hot", -1] },
          ...owned("images"),
        },
        {
          ...tagged,
          status: byEnum("status"),
          scheduler: byText("scheduler"),
          base_model: byText("base_model"),
          model_id: byReference("model_id", "models"),
        },
        {
          ...anyTag,
          status,
          scheduler: () => pick(["DDIM", "K_EULER", "KLMS"]),
          base_model: () => pick(["SD1.5", "SD2"]),
          model_id: anyId(tables.models),
        },
      ),
    ];

    // Worked out once: what each viewer may see, in each order.
    for (const { name, searched } of kinds) {
      for (const row of tables[name] ?? []) row.folded = searched.map((column) => foldNaively(row[column] as string));
    }
    const prepared = new Map<string, Row[]>();
    const seenInOrder = (kind: Kind, viewer: Viewer, column: string): Row[] => {
      const key = `${kind.name} ${viewers.indexOf(viewer)} ${column}`;
      const known = prepared.get(key);
      if (known) return known;
      const rows = (tables[kind.name] ?? []).filter((row) => !kind.isOwned || isVisible(row, viewer));
      rows.sort((a, b) => compare(a[column], b[column]) || a.id - b.id);
      prepared.set(key, rows);
      return rows;
    };

    /** A random query, and what it must be answered. */
    function draw(index: number) {
      const kind = pick(kinds);
      const viewer = pick(viewers);
      const density = pick([0, 0.1, 0.3]);
      const query = new URLSearchParams();
      const conditions: Matches[][] = [];
      for (const [name, byValue] of Object.entries(kind.filters)) {
        if (!chance(density)) continue;
        for (let repeat = 0; repeat === 0 || (repeat < 3 && chance(0.3)); repeat += 1) {
          const parts = many(1 + Math.floor(random() ** 2 * 4), kind.values[name] as () => string);
          query.append(name, parts.join(","));
          conditions.push(parts.map((part) => byValue(part.trim())));
        }
      }
      if (chance(0.3)) {
        for (let repeat = 0; repeat === 0 || chance(0.2); repeat += 1) {
          const alternatives = many(chance(0.7) ? 1 : 2, () =>
            many(chance(0.7) ? 1 : 2, () => pick(queryPool)).join(" "),
          );
          query.append("search", alternatives.join(","));
          conditions.push(alternatives.map(bySearch));
        }
      }
      const sort = chance(0.5) ? pick(Object.keys(kind.sorts)) : null;
      const order = chance(0.4) ? pick(["asc", "desc"]) : null;
      if (sort) query.set("sort", sort);
      if (order) query.set("order", order);
      const [column, natural] = (sort && kind.sorts[sort]) || ["id", 1];
      const direction = order ? (order === "asc" ? 1 : -1) : natural;
      const found = seenInOrder(kind, viewer, column).filter((row) =>
        conditions.every((alternatives) => alternatives.some((matches) => matches(row, viewer))),
      );
      if (direction < 0) found.reverse();
      // Large pages are most of what a case costs, and tell little more.
      const pageSize = chance(0.04) ? 200 : pick([1, 2, 5, 20]);
      const page = chance(0.6) ? 1 : 1 + Math.floor(random() * (found.length / pageSize + 2));
      query.set("pageSize", String(pageSize));
      query.set("page", String(page));
      const offset = (page - 1) * pageSize;
      const path = `/api/${kind.name}?${query}`;
      const about = { case: index, path: decodeURIComponent(path), as: viewer.admin ? "admin" : viewer.id };
      return {
        path,
        token: viewer.token,
        about,
        expected: {
          ...about,
          status: 200,
          ids: found.slice(offset, offset + pageSize).map((row) => row.id),
          total: found.length,
          next: offset + pageSize < found.length,
        },
      };
    }

    const atOnce = 8;
    for (let index = 0; index < cases; index += atOnce) {
      const round = Array.from({ length: Math.min(atOnce, cases - index) }, (_, i) => draw(index + i));
      const answers = await Promise.all(round.map(({ path, token }) => app.call("GET", path, { token })));
      for (const [i, { about, expected }] of round.entries()) {
        const { status, body } = answers[i] as Answer;
        const { list, total, next } = body;
        expect({ ...about, status, ids: list?.map((row: Row) => row.id), total, next }).toEqual(expected);
      }
    }
  },
  Math.max(120_000, cases * 50),
);

function isVisible(row: Row, viewer: Viewer): boolean {
  return row.public === true || viewer.admin || row.user_id === viewer.id;
}

/** Texts by code point, numbers by value. */
function compare(a: unknown, b: unknown): number {
  if (typeof a === "string" && typeof b === "string") {
    const [left, right] = [[...a], [...b]];
    for (let i = 0; i < Math.min(left.length, right.length); i += 1) {
      const difference = (left[i]?.codePointAt(0) ?? 0) - (right[i]?.codePointAt(0) ?? 0);
      if (difference !== 0) return difference;
    }
    return left.length - right.length;
  }
  return Number(a) - Number(b);
}
