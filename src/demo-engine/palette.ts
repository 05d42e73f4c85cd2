/** Which colours a picture has: from the prompt, and from the styles applied to it. */
import { mixLab, type Swatch } from "./color.ts";
import { createRandom } from "./random.ts";
import { wordsOf } from "./style.ts";
import type { AppliedStyle } from "./values.ts";

/** A palette out of the prompt alone: one family of hues, and an accent across the wheel. */
export function basePalette(checkpoint: string, prompt: string): Swatch[] {
  const random = createRandom(`palette ${checkpoint} ${prompt}`);
  const hue = random() * 2 * Math.PI;
  const drift = (0.5 + random() * 0.9) * (random() < 0.5 ? -1 : 1);
  const swatches = Array.from({ length: 5 }, (_, i): Swatch => {
    const angle = hue + (drift * i) / 4;
    const vivid = [0.05, 0.095, 0.11, 0.085, 0.04][i] ?? 0.1;
    return { color: [0.17 + i * 0.19, Math.cos(angle) * vivid, Math.sin(angle) * vivid], share: 0.2 };
  });
  const across = hue + Math.PI * (0.85 + random() * 0.3);
  swatches.push({ color: [0.74, Math.cos(across) * 0.15, Math.sin(across) * 0.15], share: 0 });
  return swatches;
}

/** Moves a palette towards a style's; a negative strength moves it away. */
export function applyStyle(palette: Swatch[], { style, strength }: AppliedStyle, prompt: string): Swatch[] {
  if (strength === 0) return palette;
  const named = wordsOf(prompt).some((word) => style.words.has(word));
  const share = Math.max(-1, Math.min(1, strength * (named ? 1 : 0.9)));
  const ordered = [...style.palette].sort((x, y) => x.color[0] - y.color[0]);
  const stretched = stretchLightness(ordered);
  return [...palette]
    .sort((x, y) => x.color[0] - y.color[0])
    .map((swatch, i) => {
      const other = stretched[Math.round((i * (stretched.length - 1)) / Math.max(1, palette.length - 1))] ?? swatch;
      return {
        color: mixLab(swatch.color, other.color, share),
        share: swatch.share + (other.share - swatch.share) * Math.abs(share),
      };
    });
}

/** Pictures of one flat lightness would give flat drawings: the darkest and the lightest are pulled apart a little. */
function stretchLightness(palette: Swatch[]): Swatch[] {
  const low = palette[0]?.color[0] ?? 0;
  const span = (palette.at(-1)?.color[0] ?? 1) - low;
  const wanted = Math.max(span, 0.55);
  const start = Math.max(0.06, Math.min(low, 0.95 - wanted) - (wanted - span) * 0.3);
  return palette.map(({ color, share }, i) => {
    const place = span > 0.02 ? (color[0] - low) / span : i / Math.max(1, palette.length - 1);
    return { color: [start + place * wanted, color[1], color[2]], share };
  });
}
