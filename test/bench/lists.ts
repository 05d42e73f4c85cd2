/**
 * `bun run bench lists`: what lists cost at a million rows against ten thousand, in the same run; pages in the middle
 * against a bare walk of the index to them; combinations of filters against a bare count of their most selective one.
 */
import { type BenchApp, openBenchApp } from "./app.ts";
import { seededDatabase } from "./database.ts";
import { medians, printTable } from "./measure.ts";
import { searchHits, searchWords } from "./seed.ts";

const sizes = [10_000, Number(process.env.BENCH_ROWS ?? 1_000_000)] as const;
const turns = Number(process.env.BENCH_TURNS ?? 15);
/** Few, so that each has run every statement often enough to have kept its plan, as in a server that has run for a while. */
const connections = 2;

const filters = [
  "",
  "id=5,500,5000",
  "user_id=1",
  "user_id=1,2,3,4,5,6,7,8,9,10",
  "public=true",
  "tag=tag 1",
  "status=success",
  "status=running",
  "scheduler=K_EULER",
  "base_model=SD2",
  "model_id=1",
  "name=image 7",
  ...Object.values(searchWords).map((word) => `search=${word}`),
];
const sorts = ["sort=createdAt", "sort=updatedAt", "sort=name", "sort=hot"];

/** The floor of a page in the middle: the same index from the same end to the same place, nothing fetched. */
const middles = [
  { query: "", walk: "select id from images where public = true order by public, id" },
  ...["created_at", "updated_at", "name", "hot"].map((column, i) => ({
    query: sorts[i] as string,
    walk: `select id from images where public = true order by public, ${column}, id`,
  })),
  { query: "user_id=1", walk: "select id from images where public = true and user_id = 1 order by id" },
  { query: "tag=tag 1", walk: "select row_id from image_tags where public = true and tag_id = 1 order by row_id" },
  { query: "status=success", walk: "select id from images where public = true and status = 'success' order by id" },
];

/** `narrowest`: the condition of the most selective filter, and the table whose index counts it. */
const combinations = [
  { query: "user_id=1&status=success", narrowest: ["images", "user_id = 1"] },
  { query: "user_id=1&tag=tag 1", narrowest: ["images", "user_id = 1"] },
  { query: "user_id=1&model_id=1", narrowest: ["images", "user_id = 1"] },
  { query: "model_id=1&scheduler=K_EULER", narrowest: ["images", "model_id = 1"] },
  { query: "tag=tag 1&tag=tag 150", narrowest: ["image_tags", "tag_id = 150"] },
  { query: "tag=tag 1,tag 2", narrowest: ["image_tags", "tag_id in (1, 2)"] },
  { query: "tag=tag 1&base_model=SD2", narrowest: ["image_tags", "tag_id = 1"] },
  { query: "status=success&scheduler=DDIM", narrowest: ["images", "scheduler = 'DDIM'"] },
  { query: "scheduler=DDIM&base_model=SD2", narrowest: ["images", "scheduler = 'DDIM'"] },
  { query: "name=image 7&status=success", narrowest: ["images", "name = 'image 7'"] },
  { query: "user_id=1&sort=hot", narrowest: ["images", "user_id = 1"] },
  { query: "user_id=1&sort=createdAt", narrowest: ["images", "user_id = 1"] },
  { query: "tag=tag 1&sort=hot", narrowest: ["image_tags", "tag_id = 1"] },
  { query: "model_id=1&sort=createdAt", narrowest: ["images", "model_id = 1"] },
  { query: "search=zebrafinch&user_id=1", narrowest: ["images", "user_id = 1"] },
  { query: "search=zebrafinch&tag=tag 1", narrowest: ["image_tags", "tag_id = 1"] },
] as const;

interface Side {
  app: BenchApp;
  tokens: Record<(typeof viewers)[number], string | null>;
}
const viewers = ["guest", "owner", "admin"] as const;
const ms = (value: number) => value.toFixed(2);

const sides: Side[] = [];
for (const size of sizes) {
  const app = openBenchApp(await seededDatabase(size), { max: connections });
  sides.push({ app, tokens: { guest: null, owner: await app.logIn(1, false), admin: await app.logIn(2, true) } });
}
const [small, large] = sides as [Side, Side];
const pageSize = 20;
const path = (query: string, page: number) => `/api/images?${query}${query ? "&" : ""}page=${page}`;
const ask = ({ app, tokens }: Side, who: (typeof viewers)[number], query: string, page: number) =>
  app.get(path(query, page), tokens[who]);
/** The last whole page: a rest of three rows costs less than one of nineteen. */
const lastPage = (total: number) => Math.max(1, Math.floor(total / pageSize));

await compareSizes();
await compareMiddles();
await compareCombinations();
for (const { app } of sides) await app.stop();
process.exit(0);

async function compareSizes(): Promise<void> {
  const table: string[][] = [];
  let worst = 0;
  for (const query of [...filters, ...sorts]) {
    for (const who of viewers) {
      const totals = await Promise.all(sides.map(async (side) => (await ask(side, who, query, 1)).total));
      const pages = totals.map(lastPage);
      const [firstSmall = 0, firstLarge = 0, lastSmall = 0, lastLarge = 0] = await medians(turns, [
        () => ask(small, who, query, 1),
        () => ask(large, who, query, 1),
        () => ask(small, who, query, pages[0] as number),
        () => ask(large, who, query, pages[1] as number),
      ]);
      const ratios = [firstLarge / firstSmall, lastLarge / lastSmall];
      worst = Math.max(worst, ...ratios);
      table.push([
        `${query || "no filter"}, ${who}`,
        ...[ms(firstSmall), ms(firstLarge), ms(ratios[0] as number)],
        ...[ms(lastSmall), ms(lastLarge), ms(ratios[1] as number)],
        String(totals[1]),
      ]);
    }
  }
  const [few, many] = sizes.map((size) => size.toLocaleString("en"));
  process.stdout.write(
    `\nLists of images, medians of ${turns} in ms, at ${few} rows and at ${many}; searches at ${searchHits} hits. Worst ratio: ${ms(worst)}\n`,
  );
  printTable(
    ["query, viewer", `first ${few}`, many ?? "", "ratio", `last ${few}`, many ?? "", "ratio", "total"],
    table,
  );
}

async function compareMiddles(): Promise<void> {
  const table: string[][] = [];
  for (const { query, walk } of middles) {
    for (const who of viewers) {
      const { total } = await ask(large, who, query, 1);
      const page = Math.ceil(lastPage(total) / 2);
      const steps = Math.min((page - 1) * pageSize, total - (page - 1) * pageSize);
      const { sql } = large.app;
      const [page_ = 0, floor = 1] = await medians(turns, [
        () => ask(large, who, query, page),
        () => sql.unsafe(`${walk} offset ${steps} limit 1`, [], { prepare: true }),
      ]);
      table.push([`${query || "no filter"}, ${who}`, String(page), ms(page_), ms(floor), ms(page_ / floor)]);
    }
  }
  process.stdout.write("\nPages in the middle, in ms, and a bare walk of the index to them.\n");
  printTable(["query, viewer", "page", "ours", "walk", "ratio"], table);
}

async function compareCombinations(): Promise<void> {
  const table: string[][] = [];
  for (const { query, narrowest } of combinations) {
    const [from, condition] = narrowest;
    for (const who of viewers) {
      const { total } = await ask(large, who, query, 1);
      const { sql } = large.app;
      const scopes = {
        guest: "public = true",
        owner: "(public = true or (public = false and user_id = 1))",
        admin: "public in (true, false)",
      };
      const [page = 0, floor = 1] = await medians(turns, [
        () => ask(large, who, query, 1),
        () => sql.unsafe(`select count(*) from ${from} where ${condition} and ${scopes[who]}`, [], { prepare: true }),
      ]);
      table.push([`${query}, ${who}`, ms(page), ms(floor), ms(page / floor), String(total)]);
    }
  }
  process.stdout.write(
    "\nCombinations of filters, first page and total in ms, and a bare count of the most selective filter.\n",
  );
  printTable(["query, viewer", "ours", "count", "ratio", "total"], table);
}
