/** Compile checks: the types read from the definitions are the ones a caller needs. `bun run types` judges them. */
import { expect, test } from "bun:test";
import type { Registry } from "../../src/resources/index.ts";
import type { CreateInput, FiltersOf, ObjectOf, PatchInput, SortOf } from "../../src/rest/infer.ts";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
/** Does not compile unless `T` is true. */
const holds = <T extends true>(..._: T[]) => true;

type Status = "initial" | "ready" | "waiting" | "running" | "success" | "error";

test("objects have the fields' own types; what not everyone sees is optional or null", () => {
  type Model = ObjectOf<Registry["models"]>;
  type Task = ObjectOf<Registry["tasks"]>;
  expect(holds<Equal<Model["type"], "lora" | "ckp" | "hyper" | "ti">>()).toBe(true);
  expect(holds<Equal<Model["status"], Status>>()).toBe(true);
  expect(holds<Equal<Model["tags"], string[]>>()).toBe(true);
  expect(holds<Equal<Model["dataset_id"], number | null>>()).toBe(true);
  expect(holds<Equal<Task["params"], Record<string, unknown> | null>>()).toBe(true);
  expect(holds<Equal<Task["status"], Status | "canceled">>()).toBe(true);
  type User = ObjectOf<Registry["users"]>;
  expect(holds<Equal<Pick<User, "id" | "name" | "email">, { id: number; name: string; email?: string }>>()).toBe(true);
});

test("inputs know what is required and what may be written", () => {
  type Tag = CreateInput<Registry["tags"]>;
  expect(holds<Equal<Tag, { name: string }>>()).toBe(true);
  type Image = CreateInput<Registry["images"]>;
  expect(holds<Equal<Pick<Image, "prompt" | "width">, { prompt: string; width?: number }>>()).toBe(true);
  expect(holds<Equal<Image["scheduler"], ObjectOf<Registry["images"]>["scheduler"] | undefined>>()).toBe(true);
  expect(holds<Equal<keyof PatchInput<Registry["images"]>, "name" | "tags" | "public">>()).toBe(true);
  expect(holds<Equal<PatchInput<Registry["tasks"]>["status"], "canceled" | "waiting" | undefined>>()).toBe(true);
  expect(holds<Equal<CreateInput<Registry["params"]>, never>>()).toBe(true);
});

test("filters and sorts are those of the definition", () => {
  type Filters = FiltersOf<Registry["models"]>;
  const filters: Filters = { user_id: [1, 2], tag: [["動物", "植物"], ["水彩"]], status: "running", public: true };
  // @ts-expect-error a filter that models do not have
  const unknown: Filters = { email: "x" };
  // @ts-expect-error a value outside the enum
  const wrong: Filters = { type: "loras" };
  const sort: SortOf<Registry["tags"]> = "createdAt";
  expect([filters, unknown, wrong, sort]).toHaveLength(4);
});
