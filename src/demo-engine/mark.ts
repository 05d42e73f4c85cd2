/** The small "DEMO" in a corner of every picture: nobody shall take one for the work of a real model. */
import type { Picture } from "./picture.ts";

/** Five pixels high; an own font, because which fonts a machine has varies. */
const letters: Record<string, string[]> = {
  D: ["##.", "#.#", "#.#", "#.#", "##."],
  E: ["###", "#..", "##.", "#..", "###"],
  M: ["#...#", "##.##", "#.#.#", "#...#", "#...#"],
  O: [".#.", "#.#", "#.#", "#.#", ".#."],
};

const word = rows("DEMO");

/** Draws the mark into `picture`, about a twentieth of its height; a picture too small for it takes what fits. */
export function stampMark(picture: Picture): void {
  const { width, height, data } = picture;
  const dot = Math.max(1, Math.round(Math.min(width, height) / 256));
  const rowLength = word[0]?.length ?? 0;
  const pad = Math.min(width, height) < 64 ? 0 : 2;
  const left = Math.max(0, width - (rowLength + pad * 2 + 1) * dot);
  const top = Math.max(0, height - (word.length + pad * 2 + 1) * dot);
  for (let y = top; y < height - dot * Math.min(pad, 1); y++) {
    for (let x = left; x < width - dot * Math.min(pad, 1); x++) {
      const row = word[Math.floor((y - top) / dot) - pad];
      const isInk = row?.[Math.floor((x - left) / dot) - pad] === "#";
      const at = (y * width + x) * 3;
      for (let channel = at; channel < at + 3; channel++) {
        // A darkened ground under light letters reads on any picture.
        const ground = (data[channel] as number) * 0.55;
        data[channel] = isInk ? 236 : ground;
      }
    }
  }
}

function rows(text: string): string[] {
  return [0, 1, 2, 3, 4].map((row) => [...text].map((letter) => letters[letter]?.[row] ?? "").join("."));
}
