/**
 * Folding: what two texts have in common when letter case, width and Traditional or Simplified forms do not matter.
 * One function for rows and queries. When it changes, raise `foldVersion` and run `bun run reindex`.
 *
 * Traditional to Simplified by OpenCC's character table (opencc-js), character by character: its phrase tables read
 * the context, and a part of a text would then fold otherwise than the whole.
 */
import { Converter } from "opencc-js/t2cn";

export const foldVersion = 1;

let convert: ((text: string) => string) | null = null;
const simplified = new Map<string, string>();

/** NFKC, lower case, Simplified characters; one code point for one wherever Unicode allows. */
export function fold(text: string): string {
  const plain = text.normalize("NFKC").toLowerCase().normalize("NFKC");
  return plain.replace(/\p{Script=Han}/gu, (character) => {
    let known = simplified.get(character);
    if (known === undefined) {
      convert ??= Converter({ from: "t", to: "cn" });
      known = convert(character);
      simplified.set(character, known);
    }
    return known;
  });
}

const latin = /^\p{Script=Latin}$/u;
const latinOrDigit = /^[\p{Script=Latin}\p{N}]$/u;

/** The words of a folded text: what lies between white space. */
export function wordsOf(folded: string): string[] {
  return folded.split(/\s+/u).filter((word) => word !== "");
}

/**
 * What a folded text is found by. Letters of alphabets are frequent and words long: three in a row. A Chinese
 * character says as much as a word: one, and two in a row, which also holds for digits, signs and other scripts. One
 * or two Latin letters match at the start of a word only: `^a`, `^ab`.
 */
export function gramsOf(folded: string): Set<string> {
  const grams = new Set<string>();
  for (const word of wordsOf(folded)) {
    const characters = [...word];
    const isLatin = characters.map((character) => latin.test(character));
    for (const [i, a] of characters.entries()) {
      const [b, c] = [characters[i + 1], characters[i + 2]];
      if (!isLatin[i]) grams.add(a);
      if (b !== undefined && !(isLatin[i] && isLatin[i + 1])) grams.add(a + b);
      if (b !== undefined && c !== undefined && isLatin[i] && isLatin[i + 1] && isLatin[i + 2]) grams.add(a + b + c);
      if (isLatin[i] && !latinOrDigit.test(characters[i - 1] ?? " ")) {
        grams.add(`^${a}`);
        if (b !== undefined && isLatin[i + 1]) grams.add(`^${a}${b}`);
      }
    }
  }
  return grams;
}

/** How one folded word of a query is looked for: all of the grams, and then as a part of the text. */
export interface WordQuery {
  grams: string[];
  /** Null where the gram alone decides. */
  part: string | null;
}

export function toWordQuery(word: string): WordQuery {
  const characters = [...word];
  if (characters.length <= 2 && characters.every((character) => latin.test(character))) {
    return { grams: [`^${word}`], part: null };
  }
  const grams = [...gramsOf(word)].filter((gram) => !gram.startsWith("^") || word.includes(gram));
  // A pair says more than its halves.
  const longer = grams.filter((gram) => [...gram].length > 1);
  return { grams: longer.length > 0 ? longer : grams, part: word };
}
