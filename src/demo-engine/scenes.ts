/**
 * What a picture shows before it has colours: each scene answers, for a point, how light it is, how high the surface
 * stands (for the lighting) and how much it glows in the accent colour. Points are in units of the shorter edge.
 */
import { createNoise, fractal, type Noise, type Random } from "./random.ts";

/** One point of a scene, written in place: a picture asks for a million of them. */
export interface Sample {
  /** Place on the palette, 0 dark to 1 light. */
  tone: number;
  /** Relief, about 0 to 1. */
  height: number;
  /** Share of the accent colour, 0 to 1. */
  glow: number;
}

/** Draws the point (x, y); the picture spans 0 to `width` and 0 to `height`, the shorter of them being 1. */
export type Scene = (x: number, y: number, out: Sample) => void;

export interface SceneSettings {
  width: number;
  height: number;
  random: Random;
  /** 0 soft to 1 rich in detail. */
  detail: number;
  /** How far shapes are bent, about 0.5 to 2. */
  bend: number;
}

const clamp = (value: number) => Math.min(1, Math.max(0, value));
const smooth = (from: number, to: number, value: number) => {
  const share = clamp((value - from) / (to - from));
  return share * share * (3 - 2 * share);
};

const makers = { silk, ridges, bloom, tides };

/** Words that call for a scene; a prompt without any gets one by its hash. */
const words: [RegExp, keyof typeof makers][] = [
  [/mountain|hill|valley|landscape|desert|forest|sunset|sunrise|sky|castle|city|house|tree|road/, "ridges"],
  [/flower|rose|petal|bloom|lotus|portrait|face|girl|boy|woman|man|cat|dog|fox|bird|person|eye/, "bloom"],
  [/sea|ocean|wave|river|lake|water|beach|fish|boat|ship|rain|storm/, "tides"],
  [/abstract|silk|cloth|smoke|dream|space|galaxy|nebula|star|paint|fire|texture|pattern/, "silk"],
];

/** Chooses a scene by the prompt and lays it out by the random stream of `settings`. */
export function createScene(prompt: string, settings: SceneSettings): Scene {
  const text = prompt.toLowerCase();
  const named = words.find(([pattern]) => pattern.test(text))?.[1];
  const names = Object.keys(makers) as (keyof typeof makers)[];
  const sum = [...text].reduce((total, letter) => (total * 31 + (letter.codePointAt(0) ?? 0)) % 9973, 7);
  return makers[named ?? names[sum % names.length] ?? "silk"](settings);
}

/** Folds of cloth or smoke: noise bent by noise, twice. @see https://iquilezles.org/articles/warp/ */
function silk({ random, detail, bend }: SceneSettings): Scene {
  const noise = createNoise(random);
  const scale = 1.1 + random() * 0.7;
  const turn = random() * Math.PI;
  const [cos, sin] = [Math.cos(turn), Math.sin(turn)];
  const octaves = 2 + Math.round(detail * 3);
  return (px, py, out) => {
    // Stretched along one direction: folds instead of clouds.
    const x = (px * cos + py * sin) * scale * 0.7;
    const y = (py * cos - px * sin) * scale * 1.25;
    const ax = noise(x + 1.7, y + 9.2) + 0.4 * noise(x * 2.1 + 3, y * 2.1);
    const ay = noise(x + 8.3, y + 2.8) + 0.4 * noise(x * 2.1, y * 2.1 + 5);
    const bx = noise(x + bend * 1.5 * ax + 4.1, y + bend * 1.5 * ay + 7.7);
    const by = noise(x + bend * 1.5 * ax + 6.6, y + bend * 1.5 * ay + 1.3);
    const fold = fractal(noise, x + bend * 1.8 * bx, y + bend * 1.8 * by, octaves, 0.38 + detail * 0.1);
    out.height = 0.5 + fold * 0.9;
    out.tone = clamp(0.48 + fold * 0.85 + by * 0.22);
    out.glow = smooth(0.28, 0.75, ax * 0.6 + bx * 0.5) * 0.75;
  };
}

/** Mountain ranges one behind the other, a sun, and mist in the valleys. */
function ridges({ width, height, random, detail, bend }: SceneSettings): Scene {
  const noise = createNoise(random);
  const sun = { x: width * (0.2 + random() * 0.6), y: height * (0.18 + random() * 0.2), r: 0.06 + random() * 0.07 };
  const count = 6;
  const horizon = height * (0.42 + random() * 0.12);
  const ranges = Array.from({ length: count }, (_, i) => {
    const near = i / (count - 1);
    const base = horizon + (height * 1.02 - horizon) * near ** 1.15;
    return { near, base, size: (0.1 + near * 0.13) * bend, wide: 2.6 - near * 1.2, shift: random() * 90 };
  });
  const octaves = 3 + Math.round(detail * 3);
  return (x, y, out) => {
    for (let i = count - 1; i >= 0; i--) {
      const range = ranges[i] as (typeof ranges)[number];
      if (y < range.base - range.size * 1.3) continue;
      // Sharp crests: the noise folded at its zero line.
      const rough = fractal(noise, x * range.wide + range.shift, range.shift * 0.37, octaves, 0.47);
      const top = range.base - range.size * (1.25 - Math.abs(rough) * 3.4);
      if (y < top) continue;
      const depth = (y - top) / 0.3;
      const slope = fractal(noise, x * 5 + range.shift, y * 4 + rough * 3, 2 + Math.round(detail * 2), 0.5);
      const mist = smooth(0.15, 1.3, depth) * (0.3 - range.near * 0.16);
      out.tone = clamp(0.62 - range.near * 0.57 + slope * 0.07 + mist);
      out.height = 0.5 + slope * (0.2 + range.near * 0.14) - depth * 0.1;
      out.glow = (1 - range.near) * 0.16 * smooth(0.6, 0, Math.hypot(x - sun.x, top - sun.y));
      return;
    }
    const far = Math.hypot(x - sun.x, y - sun.y);
    const cloud = fractal(noise, x * 1.6 + 40, y * 6.5 + noise(x * 2, y * 2) * 0.7, 2 + octaves, 0.5);
    const veil = smooth(0.02, 0.5, cloud) * 0.2;
    const edge = 0.0035;
    const disc = smooth(sun.r + edge, sun.r - edge, far);
    out.tone = clamp(0.42 + 0.42 * smooth(0, horizon, y) + veil + 0.3 * Math.exp(-far * 4) + disc * 0.4);
    out.height = 0.5 + cloud * 0.05;
    out.glow = clamp(disc * 0.85 + 0.75 * Math.exp(-far * 5.5) * (1 - veil));
  };
}

/** One great flower of layered petals before a soft ground. */
function bloom({ width, height, random, detail, bend }: SceneSettings): Scene {
  const noise = createNoise(random);
  const center = { x: width * (0.42 + random() * 0.16), y: height * (0.42 + random() * 0.14) };
  const petals = 5 + Math.floor(random() * 5);
  const rings = Array.from({ length: 5 }, (_, i) => ({
    reach: 0.47 * (1 - i * 0.185),
    turn: random() * 2 * Math.PI,
    petals: petals + (i % 2),
    tone: 0.36 + i * 0.13,
  }));
  const lights = softLights(width, height, random);
  return (x, y, out) => {
    const dx = x - center.x;
    const dy = y - center.y;
    const wave = noise(x * 2.3 + 11, y * 2.3) * 0.16 * bend;
    const far = Math.hypot(dx, dy) * (1 + wave * 0.7);
    const angle = Math.atan2(dy, dx) + wave;
    for (let i = rings.length - 1; i >= 0; i--) {
      const ring = rings[i] as (typeof rings)[number];
      const phase = ((angle + ring.turn) * ring.petals) / 2;
      const lobe = Math.abs(Math.cos(phase));
      const reach = ring.reach * (0.62 + 0.38 * Math.sqrt(lobe));
      if (far > reach) continue;
      const along = far / reach;
      const vein = fractal(noise, angle * 7 + ring.turn * 9, far * 3, 2 + Math.round(detail * 2), 0.5);
      // Each petal is a shallow bowl: bright at its rim, dark where the next ring lies on it.
      const inner = rings[i + 1];
      const shade = inner === undefined ? 0 : 0.3 * smooth(inner.reach * 1.25, inner.reach * 0.7, far);
      out.tone = clamp(ring.tone + 0.3 * (along - 0.55) + vein * 0.09 * (0.4 + detail) - shade * 0.8);
      out.height = 0.4 + 0.28 * lobe * (1 - (along - 0.35) ** 2) + i * 0.08 + vein * 0.05;
      out.glow = clamp(0.85 * smooth(0.5, 0, far / 0.34) + 0.12 * lobe * along);
      return;
    }
    const ground = fractal(noise, x * 1.2 + 30, y * 1.2 + wave * 4, 3, 0.5);
    const shadow = 0.16 * smooth(0.62, 0.4, far);
    out.tone = clamp(0.22 + ground * 0.28 + lights(x, y) - shadow);
    out.height = 0.3 + ground * 0.15;
    out.glow = clamp(lights(x, y) * 0.5);
  };
}

/** A sea of swelling bands under a pale moon. */
function tides({ width, height, random, detail, bend }: SceneSettings): Scene {
  const noise = createNoise(random);
  const horizon = height * (0.3 + random() * 0.16);
  const moon = { x: width * (0.25 + random() * 0.5), y: horizon * (0.4 + random() * 0.2), r: 0.07 + random() * 0.05 };
  const lights = softLights(width, horizon, random);
  const octaves = 2 + Math.round(detail * 3);
  return (x, y, out) => {
    if (y < horizon) {
      const far = Math.hypot(x - moon.x, y - moon.y);
      const disc = smooth(moon.r + 0.004, moon.r - 0.004, far);
      const cloud = fractal(noise, x * 1.3, y * 4 + 20, octaves + 1, 0.52);
      out.tone = clamp(0.2 + 0.38 * (y / horizon) ** 2 + cloud * 0.24 + 0.45 * Math.exp(-far * 5) + disc * 0.5);
      out.tone = clamp(out.tone + lights(x, y) * 0.4);
      out.height = 0.5 + cloud * 0.12;
      out.glow = clamp(disc * 0.5 + 0.4 * Math.exp(-far * 7));
      return;
    }
    const near = (y - horizon) / (height - horizon);
    // Perspective: bands grow towards the viewer.
    const depth = 1 / (0.09 + near);
    const sway = fractal(noise, x * (0.8 + depth * 0.35) + 3, depth * 2.2, octaves, 0.5) * bend;
    const swell = Math.sin(depth * 7 + sway * 5.2 + Math.sin(x * 3 + sway * 2) * 0.8);
    const chop = fractal(noise, x * 2.2 * depth + 7, depth * 9, octaves, 0.5);
    const crest = smooth(0.45, 1, swell + chop * 0.35);
    const path = Math.exp(-(((x - moon.x) / (0.05 + near * 0.24)) ** 2)) * smooth(-0.1, 0.5, swell * 0.5 + chop);
    out.tone = clamp(0.46 - near * 0.3 + swell * 0.12 + chop * 0.1 + crest * 0.26 + path * 0.42);
    out.height = 0.5 + (swell * 0.2 + chop * 0.25) * (0.25 + near);
    out.glow = clamp(path * 0.75);
  };
}

/** Out-of-focus lights: a few soft discs. */
function softLights(width: number, height: number, random: Random): Noise {
  const discs = Array.from({ length: 14 }, () => ({
    x: random() * width,
    y: random() * height,
    r: 0.025 + random() ** 2 * 0.11,
    light: 0.06 + random() * 0.17,
  }));
  return (x, y) => {
    let light = 0;
    for (const disc of discs) {
      const far = Math.hypot(x - disc.x, y - disc.y);
      if (far < disc.r * 1.15) light += disc.light * smooth(disc.r * 1.15, disc.r * 0.8, far);
    }
    return light;
  };
}
