/**
 * Draws the pictures beside this file, a dozen of one style for the README's walk and the tests to train on: cuckoos and
 * flowers, in ink and four earth colours on warm paper. Their captions are in `captions.tsv`.
 *
 *     bun test/pictures/draw.ts
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";

const edge = 160;
const paper = "#f4e7cd";
const ink = "#22303d";
const slate = "#5f7280";
const vermilion = "#c9452e";
const ochre = "#dba23f";
const sage = "#7c9470";

const group = (transform: string, ...parts: string[]) => `<g transform="${transform}">${parts.join("")}</g>`;
const fill = (d: string, colour: string, opacity = 1) => `<path d="${d}" fill="${colour}" opacity="${opacity}"/>`;
const stroke = (d: string, width: number, colour = ink, opacity = 1) =>
  `<path d="${d}" fill="none" stroke="${colour}" stroke-width="${width}" stroke-linecap="round" stroke-linejoin="round" opacity="${opacity}"/>`;
const dot = (x: number, y: number, r: number, colour: string, opacity = 1) =>
  `<circle cx="${x}" cy="${y}" r="${r}" fill="${colour}" opacity="${opacity}"/>`;

/** A cuckoo in profile on a box of 100, looking right, its feet at 46,80. */
function cuckoo({ isCalling = false, wing = "" } = {}): string {
  const beak = isCalling ? "M84,30 L97,22 L88,34 L97,39 L84,38 Z" : "M84,30 L99,36 L84,38 Z";
  const folded = fill("M62,44 C50,40 34,50 4,82 C30,80 56,76 66,58 C67,52 66,47 62,44 Z", ink);
  const bars = [
    "M66,48 Q73,53 80,49",
    "M63,55 Q71,61 80,56",
    "M58,62 Q67,68 76,63",
    "M52,69 Q60,74 69,70",
    "M45,75 Q50,78 57,76",
  ];
  return [
    fill("M34,66 L-14,92 L-8,99 L2,94 L8,100 L40,78 Z", ink),
    ...[0, 1, 2].map((i) => dot(-6 + i * 11, 92 - i * 6, 1.6, paper)),
    fill("M14,78 C30,46 52,36 64,32 C68,19 84,18 87,31 C90,52 78,72 58,80 C44,84 28,82 14,78 Z", slate),
    fill("M66,46 C76,46 84,40 87,33 C89,52 78,71 58,79 C50,82 40,82 32,80 C52,76 64,64 66,46 Z", paper),
    ...bars.map((bar) => stroke(bar, 2.1)),
    wing || folded,
    wing ? "" : stroke("M58,52 C48,54 34,64 20,76 M62,58 C52,62 42,68 30,77", 1.5, slate),
    fill(beak, ochre),
    dot(78, 28, 3.4, ochre),
    dot(78.5, 28, 1.9, ink),
    wing ? "" : stroke("M48,80 L46,88 M56,79 L55,87", 2.4, ochre),
  ].join("");
}

/** Up and back, as in flight. */
const raised = [
  fill("M66,50 C58,30 36,2 -4,-14 C4,2 4,10 10,16 C10,24 16,30 20,34 C22,42 30,48 36,52 C44,60 60,62 66,50 Z", ink),
  stroke("M56,44 C44,26 28,10 10,0 M52,49 C40,36 28,26 14,18 M46,53 C38,46 30,41 22,36", 1.6, slate),
].join("");

const leaf = (x: number, y: number, angle: number, size = 1, colour = sage) =>
  group(
    `translate(${x} ${y}) rotate(${angle}) scale(${size})`,
    fill("M0,0 C8,-9 20,-9 30,0 C20,7 8,7 0,0 Z", colour),
    stroke("M1,0 L24,-0.5", 1.2),
  );

const blossom = (x: number, y: number, size = 1, petal = vermilion, angle = 0) =>
  group(
    `translate(${x} ${y}) rotate(${angle}) scale(${size})`,
    ...[0, 72, 144, 216, 288].map((turn) =>
      group(`rotate(${turn})`, fill("M0,0 C-9,-5 -8,-16 0,-17 C8,-16 9,-5 0,0 Z", petal)),
    ),
    ...[0, 72, 144, 216, 288].map((turn) =>
      group(`rotate(${turn + 36})`, stroke("M0,0 L0,-7", 1), dot(0, -8, 1.3, ink)),
    ),
    dot(0, 0, 3.2, ochre),
  );

const branch = (y: number, rise = 0) =>
  fill(
    `M-4,${y + 5} C40,${y - 2 - rise} 90,${y + 6 - rise} 164,${y - 6 - rise} L164,${y - 3 - rise} C100,${y + 12 - rise} 50,${y + 6 - rise} -4,${y + 13} Z`,
    ink,
  );

const sun = (x: number, y: number, r: number, colour = vermilion) => dot(x, y, r, colour, 0.92);
const reed = (x: number, top: number, lean: number) =>
  stroke(`M${x},166 Q${x + lean / 3},${(166 + top) / 2} ${x + lean},${top}`, 3, sage) +
  group(
    `translate(${x + lean} ${top}) rotate(${lean * 1.4})`,
    fill("M-4,2 C-6,-10 -4,-22 0,-28 C4,-22 6,-10 4,2 Z", ink),
  );

const bamboo = (x: number, width: number, colour: string) =>
  [0, 1, 2, 3]
    .map((i) => `<rect x="${x}" y="${i * 44 - 14}" width="${width}" height="41" rx="2.5" fill="${colour}"/>`)
    .join("") + stroke(`M${x + width * 0.28},-10 L${x + width * 0.28},160`, 1.2, paper, 0.55);

const iris = (x: number, y: number, size = 1, colour = slate) =>
  group(
    `translate(${x} ${y}) scale(${size})`,
    fill("M0,0 C-20,-8 -34,4 -32,26 C-18,24 -6,14 0,0 Z", colour),
    fill("M0,0 C20,-8 34,4 32,26 C18,24 6,14 0,0 Z", colour),
    fill("M0,2 C-12,-12 -10,-36 0,-44 C10,-36 12,-12 0,2 Z", ink),
    fill("M0,0 C-9,10 -9,26 0,36 C9,26 9,10 0,0 Z", colour),
    stroke("M0,4 L0,24 M-6,4 L-22,16 M6,4 L22,16", 2.2, ochre),
  );

const chrysanthemum = (x: number, y: number, size: number, colour: string) =>
  group(
    `translate(${x} ${y}) scale(${size})`,
    ...[
      [24, 30, 0],
      [18, 22, 9],
      [12, 14, 4],
    ].flatMap(([count = 0, length = 0, twist = 0], ring) =>
      Array.from({ length: count }, (_, i) =>
        group(
          `rotate(${(360 / count) * i + twist})`,
          fill(
            `M0,0 C-5,-${length * 0.5} -4,-${length} 0,-${length} C4,-${length} 5,-${length * 0.5} 0,0 Z`,
            ring === 1 ? vermilion : colour,
          ),
          stroke(`M0,-4 L0,-${length - 4}`, 0.7, ink, 0.55),
        ),
      ),
    ),
    dot(0, 0, 4, ink),
  );

const rain = Array.from({ length: 22 }, (_, i) => {
  const [x, y] = [(i * 53) % 170, (i * 37) % 150];
  return stroke(`M${x},${y} l-5,15`, 1.3, slate, 0.7);
}).join("");

const egg = (x: number, y: number, angle: number, colour: string) =>
  group(
    `translate(${x} ${y}) rotate(${angle})`,
    fill("M0,-17 C9,-17 13,-4 13,3 C13,12 7,17 0,17 C-7,17 -13,12 -13,3 C-13,-4 -9,-17 0,-17 Z", colour),
    ...[
      [-5, -4],
      [4, -8],
      [2, 4],
      [-4, 9],
      [7, 1],
    ].map(([a = 0, b = 0]) => dot(a, b, 1.4, ink, 0.8)),
  );

const nest = Array.from({ length: 26 }, (_, i) => {
  const sag = (i * 7) % 24;
  const side = (i * 13) % 11;
  return stroke(
    `M${20 + side},${92 + sag * 0.7} Q${80 + side},${128 + sag} ${140 - side},${92 + ((i * 5) % 22) * 0.7}`,
    2,
    [ink, slate, ochre][i % 3],
  );
}).join("");

const pictures: [name: string, caption: string, drawing: string][] = [
  [
    "cuckoo-and-sun",
    "ink drawing, a cuckoo on a branch before a red sun",
    sun(112, 46, 27) + branch(124) + group("translate(34 32)", cuckoo()) + leaf(12, 122, -38) + leaf(128, 122, 30),
  ],
  [
    "cuckoo-in-flight",
    "ink drawing, a cuckoo in flight before the moon",
    sun(52, 56, 36, ochre) +
      group("translate(34 44) rotate(-14 50 50)", cuckoo({ wing: raised })) +
      leaf(8, 146, -8) +
      leaf(36, 152, 4),
  ],
  [
    "two-cuckoos",
    "ink drawing, two cuckoos on a branch",
    branch(126, 4) +
      group("translate(4 58) scale(0.74)", cuckoo()) +
      group("translate(158 54) scale(-0.74 0.74)", cuckoo({ isCalling: true })) +
      leaf(70, 122, 24) +
      sun(80, 30, 14),
  ],
  [
    "cuckoo-in-reeds",
    "ink drawing, a cuckoo calling in the reeds",
    reed(20, 40, 6) +
      reed(38, 24, -8) +
      reed(134, 30, 10) +
      reed(148, 58, -6) +
      group("translate(40 46) scale(0.94)", cuckoo({ isCalling: true })) +
      stroke("M-4,136 C50,130 110,140 164,132", 4, slate) +
      stroke("M10,148 C60,144 100,150 150,146", 2.4, slate),
  ],
  [
    "cuckoo-in-rain",
    "ink drawing, a cuckoo in the rain",
    rain +
      branch(126, -4) +
      group("translate(36 44) scale(0.92)", cuckoo()) +
      leaf(22, 122, -150) +
      leaf(118, 130, 40, 1.1),
  ],
  [
    "cuckoo-and-blossom",
    "ink drawing, a cuckoo under plum blossom",
    fill("M-4,18 C40,22 80,14 164,34 L164,40 C90,24 44,32 -4,28 Z", ink) +
      blossom(34, 28, 1.05) +
      blossom(78, 22, 0.8, vermilion, 30) +
      blossom(124, 36, 1.15, vermilion, 12) +
      branch(130) +
      group("translate(38 52) scale(0.86)", cuckoo()),
  ],
  [
    "plum-blossom",
    "ink drawing, a branch of plum blossom",
    fill(
      "M8,164 C40,120 60,96 94,78 C120,64 138,40 146,-4 L152,-4 C148,48 128,74 100,90 C70,106 48,130 22,164 Z",
      ink,
    ) +
      stroke("M74,94 C64,70 60,54 40,36 M112,72 C126,78 138,90 150,94", 4) +
      blossom(40, 34, 1.3) +
      blossom(92, 82, 1.25, vermilion, 20) +
      blossom(136, 36, 1.1, vermilion, 40) +
      blossom(148, 96, 0.9, vermilion, 8) +
      dot(62, 64, 5, vermilion) +
      dot(54, 122, 4.5, vermilion),
  ],
  [
    "irises",
    "ink drawing, two irises",
    stroke("M58,164 C60,120 54,96 56,74 M108,164 C106,140 110,120 108,100", 4.4, sage) +
      fill("M30,164 C34,120 22,90 8,64 C28,84 46,120 44,164 Z", sage) +
      fill("M126,164 C126,120 142,80 156,52 C154,90 142,130 138,164 Z", sage) +
      iris(56, 60, 1.15) +
      iris(108, 96, 0.95),
  ],
  [
    "chrysanthemum",
    "ink drawing, a chrysanthemum and its leaves",
    stroke("M84,164 C78,130 84,110 80,84", 4.4) +
      leaf(80, 130, 22, 1.5) +
      leaf(80, 140, 160, 1.5) +
      chrysanthemum(80, 64, 1.5, ochre) +
      chrysanthemum(138, 132, 0.62, ochre),
  ],
  [
    "bamboo",
    "ink drawing, bamboo before the sun",
    sun(98, 62, 34) +
      bamboo(26, 15, sage) +
      bamboo(60, 9, ink) +
      bamboo(126, 19, sage) +
      leaf(68, 40, 28, 1.25, ink) +
      leaf(68, 44, 66, 1.1, ink) +
      leaf(42, 92, 34, 1.2, ink) +
      leaf(126, 100, 148, 1.3, ink) +
      leaf(126, 104, 112, 1.1, ink),
  ],
  [
    "nest",
    "ink drawing, a nest with three eggs",
    branch(121, 2) +
      egg(58, 84, -18, slate) +
      egg(102, 84, 16, sage) +
      egg(80, 78, 2, ochre) +
      nest +
      leaf(6, 118, -42) +
      leaf(132, 112, -30) +
      blossom(128, 36, 1.1),
  ],
  [
    "feather",
    "ink drawing, a feather and a blossom",
    group(
      "translate(26 134) rotate(-46)",
      fill("M0,0 C22,-26 96,-34 142,-4 C104,24 30,22 0,0 Z", ink),
      ...[0, 1, 2, 3, 4].map((i) => fill(`M${26 + i * 22},-3 l10,-16 l7,0 l-9,17 l9,15 l-7,0 Z`, paper, 0.95)),
      stroke("M-22,4 C30,-2 90,-4 140,-4", 2.6, ochre),
    ) +
      blossom(128, 128, 1.15) +
      blossom(36, 40, 0.85, ochre, 18),
  ],
];

/** The ink's edge wavers a little, and the paper has a grain. */
const frame = (drawing: string) => `
  <svg xmlns="http://www.w3.org/2000/svg" width="${edge}" height="${edge}" viewBox="0 0 ${edge} ${edge}">
    <filter id="hand" x="-5%" y="-5%" width="110%" height="110%">
      <feTurbulence type="fractalNoise" baseFrequency="0.05" numOctaves="2" seed="4" result="noise"/>
      <feDisplacementMap in="SourceGraphic" in2="noise" scale="3.2" xChannelSelector="R" yChannelSelector="G"/>
    </filter>
    <filter id="grain" x="0" y="0" width="100%" height="100%">
      <feTurbulence type="fractalNoise" baseFrequency="0.7" numOctaves="2" seed="9"/>
      <feColorMatrix values="0 0 0 0 0.55  0 0 0 0 0.42  0 0 0 0 0.24  0 0 0 0.16 -0.02"/>
    </filter>
    <rect width="100%" height="100%" fill="${paper}"/>
    <rect width="100%" height="100%" filter="url(#grain)"/>
    <g filter="url(#hand)">${drawing}</g>
  </svg>`;

if (import.meta.main) {
  for (const [name, , drawing] of pictures) {
    const png = sharp(Buffer.from(frame(drawing))).png({ palette: true, colours: 48, effort: 10, dither: 0 });
    await png.toFile(join(import.meta.dirname, `${name}.png`));
  }
  const lines = pictures.map(([name, caption]) => `${name}.png\t${caption}\n`);
  writeFileSync(join(import.meta.dirname, "captions.tsv"), lines.join(""));
}
