/** Figures: medians, and tables as the README shows them. */

export function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** So often on each of two connections that PostgreSQL, which tries five plans first, has kept one. */
const warming = 12;

/**
 * Medians in ms of things done in turns, so that what else the machine does meets them all. The first turns, which plan
 * and warm, do not count.
 */
export async function medians(turns: number, works: (() => PromiseLike<unknown>)[]): Promise<number[]> {
  const times = works.map(() => [] as number[]);
  for (let turn = 0; turn < warming + turns; turn += 1) {
    for (const [index, work] of works.entries()) {
      const started = performance.now();
      await work();
      if (turn >= warming) times[index]?.push(performance.now() - started);
    }
  }
  return times.map(median);
}

/** A table of Markdown; the first column is text, the others numbers. */
export function printTable(head: string[], rows: string[][]): void {
  const widths = head.map((title, i) => Math.max(title.length, 4, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: string[]) =>
    `| ${cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join(" | ")} |\n`;
  const rule = widths.map((width, i) => (i === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`));
  process.stdout.write(`\n${line(head)}${line(rule)}${rows.map(line).join("")}`);
}
