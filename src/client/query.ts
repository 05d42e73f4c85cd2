/** Conditions as the list rules have them: commas unite, repeated parameters intersect. */

type Value = string | number | boolean;

/** One value; several are a union; nested lists are an intersection of unions. */
export type Condition = Value | readonly Value[] | readonly (readonly Value[])[];

/**
 * @throws RangeError for a text with a comma, which no query can ask for, and for an empty list: whether it means all
 * rows or none is the caller's to say
 */
export function toQuery(conditions: Record<string, Condition | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, condition] of Object.entries(conditions)) {
    if (condition === undefined) continue;
    for (const union of toUnions(condition)) {
      if (union.length === 0) throw new RangeError(`${name}: an empty list is no condition`);
      for (const value of union) {
        if (String(value).includes(",")) throw new RangeError(`${name}: ${JSON.stringify(value)} holds a comma`);
      }
      query.append(name, union.join(","));
    }
  }
  const text = query.toString();
  return text && `?${text}`;
}

function toUnions(condition: Condition): readonly (readonly Value[])[] {
  if (!Array.isArray(condition)) return [[condition as Value]];
  const isNested = condition.length > 0 && condition.every((part) => Array.isArray(part));
  return isNested ? (condition as readonly (readonly Value[])[]) : [condition as readonly Value[]];
}
