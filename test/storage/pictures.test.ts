/** Pictures are what they decode as, and carry nothing but pixels. Every input is made here. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import sharp, { type Sharp } from "sharp";
import { thumbHashToApproximateAspectRatio, thumbHashToAverageRGBA } from "thumbhash";
import { readPicture } from "../../src/storage/pictures.ts";
import { makeThumbnails } from "../../src/storage/thumbnails.ts";
import { freshDirectory, removeDirectories, sha256 } from "./contract.ts";

afterAll(removeDirectories);

/** Left half red, right half blue, 60 × 40. */
const halves = () =>
  sharp({ create: { width: 60, height: 40, channels: 3, background: "#0000ff" } }).composite([
    { input: { create: { width: 30, height: 40, channels: 3, background: "#ff0000" } }, left: 0, top: 0 },
  ]);

async function pixel(bytes: Uint8Array, x: number, y: number): Promise<number[]> {
  const { data } = await sharp(bytes)
    .removeAlpha()
    .extract({ left: x, top: y, width: 1, height: 1 })
    .raw()
    .toBuffer({ resolveWithObject: true });
  return [...data];
}

const isRed = ([r = 0, g = 0, b = 0]: number[]) => r > 200 && g < 60 && b < 60;
const formats: { format: string; type: string; extension: string; encode: (image: Sharp) => Sharp }[] = [
  { format: "JPEG", type: "image/jpeg", extension: "jpg", encode: (image) => image.jpeg() },
  { format: "PNG", type: "image/png", extension: "png", encode: (image) => image.png() },
  { format: "WebP", type: "image/webp", extension: "webp", encode: (image) => image.webp() },
  { format: "AVIF", type: "image/avif", extension: "avif", encode: (image) => image.avif({ effort: 0 }) },
];

describe.each(formats)("a picture in $format", ({ type, extension, encode }) => {
  let plain: Uint8Array;
  beforeAll(async () => {
    plain = await encode(halves()).toBuffer();
  });

  test("keeps its format and size", async () => {
    const picture = await readPicture(plain);
    expect(picture).toMatchObject({ contentType: type, extension, width: 60, height: 40 });
    expect(isRed(await pixel(picture.bytes, 5, 5))).toBe(true);
  });

  test("is the same from a file, whatever its name, and every time", async () => {
    const path = join(await freshDirectory(), "holiday.gif");
    await writeFile(path, plain);
    const [first, second] = [await readPicture(path), await readPicture(plain)];
    expect(sha256(first.bytes)).toBe(sha256(second.bytes));
  });

  test("loses place, camera and every other note", async () => {
    const exif = { IFD0: { Copyright: "somebody", Make: "a camera" }, IFD3: { GPSLatitude: "25/1 2/1 0/1" } };
    const noted = await encode(halves().withExif(exif).withIccProfile("p3").withXmp("<x>a note</x>")).toBuffer();
    expect((await sharp(noted).metadata()).exif).toBeDefined();
    const { exif: kept, icc, xmp, iptc } = await sharp((await readPicture(noted)).bytes).metadata();
    expect([kept, icc, xmp, iptc].every((note) => note === undefined)).toBe(true);
  });

  test("cut short is refused", async () => {
    const large = await encode(noisy(400, 400)).toBuffer();
    for (const length of [large.length >> 1, 70, 20]) {
      await expect(readPicture(large.subarray(0, length))).rejects.toMatchObject({ code: "unsupported-media-type" });
    }
  });
});

describe("a picture", () => {
  test.each([
    { orientation: 3, width: 60, height: 40, red: [55, 5] },
    { orientation: 6, width: 40, height: 60, red: [5, 5] },
    { orientation: 8, width: 40, height: 60, red: [5, 55] },
    { orientation: 2, width: 60, height: 40, red: [55, 35] },
  ])(
    "taken with EXIF orientation $orientation is stored upright",
    async ({ orientation, width, height, red: [x = 0, y = 0] }) => {
      const turned = await halves().jpeg().withMetadata({ orientation }).toBuffer();
      const picture = await readPicture(turned);
      expect(picture).toMatchObject({ width, height });
      expect(isRed(await pixel(picture.bytes, x, y))).toBe(true);
      expect((await sharp(picture.bytes).metadata()).orientation).toBeUndefined();
    },
  );

  test("in PNG keeps every pixel, transparency and depth", async () => {
    const raw = Uint8Array.from({ length: 64 * 64 * 4 }, (_, n) => (n * 7919) % 256);
    const png = await sharp(raw, { raw: { width: 64, height: 64, channels: 4 } })
      .png()
      .toBuffer();
    expect(
      new Uint8Array(
        await sharp((await readPicture(png)).bytes)
          .raw()
          .toBuffer(),
      ),
    ).toEqual(raw);

    const deep = Uint16Array.from({ length: 64 * 64 * 3 }, (_, n) => (n * 7919) % 65536);
    const png16 = await sharp(deep, { raw: { width: 64, height: 64, channels: 3 } })
      .toColourspace("rgb16")
      .png()
      .toBuffer();
    const kept = sharp((await readPicture(png16)).bytes);
    expect((await kept.metadata()).depth).toBe("ushort");
    const again = await kept.toColourspace("rgb16").raw({ depth: "ushort" }).toBuffer();
    expect(new Uint16Array(again.buffer, again.byteOffset, again.length / 2)).toEqual(deep);
  });

  test("in lossless WebP stays lossless", async () => {
    const raw = Uint8Array.from({ length: 64 * 64 * 3 }, (_, n) => (n * 7919) % 256);
    const webp = await sharp(raw, { raw: { width: 64, height: 64, channels: 3 } })
      .webp({ lossless: true })
      .toBuffer();
    expect(
      new Uint8Array(
        await sharp((await readPicture(webp)).bytes)
          .raw()
          .toBuffer(),
      ),
    ).toEqual(raw);
  });

  test("in CMYK becomes one that browsers show", async () => {
    const cmyk = await halves().toColourspace("cmyk").jpeg().toBuffer();
    expect((await sharp(cmyk).metadata()).space).toBe("cmyk");
    expect((await sharp((await readPicture(cmyk)).bytes).metadata()).space).toBe("srgb");
  });

  test("that moves keeps its first frame", async () => {
    const frames = await Promise.all(["red", "blue"].map(async (background) => solid(background).png().toBuffer()));
    const moving = await sharp(frames, { join: { animated: true } })
      .webp({ loop: 0 })
      .toBuffer();
    expect((await sharp(moving).metadata()).pages).toBe(2);
    const picture = await readPicture(moving);
    expect(picture).toMatchObject({ width: 30, height: 30 });
    expect((await sharp(picture.bytes).metadata()).pages ?? 1).toBe(1);
    expect(isRed(await pixel(picture.bytes, 5, 5))).toBe(true);
  });

  test("with stray bytes behind its end is still one, without them", async () => {
    const stray = Buffer.concat([await halves().jpeg().toBuffer(), Buffer.from("<?php evil")]);
    expect(Buffer.from((await readPicture(stray)).bytes).includes("evil")).toBe(false);
  });
});

describe("refused", () => {
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>';
  test.each([
    { what: "a text named .png", make: async () => Buffer.from("hello"), detail: "something else" },
    { what: "nothing", make: async () => Buffer.alloc(0), detail: "something else" },
    { what: "an SVG", make: async () => Buffer.from(svg), detail: "SVG" },
    {
      what: "an SVG with a declaration",
      make: async () => Buffer.from(`\ufeff<?xml version="1.0"?>${svg}`),
      detail: "SVG",
    },
    { what: "a GIF", make: () => halves().gif().toBuffer(), detail: "GIF" },
    { what: "a TIFF", make: () => halves().tiff().toBuffer(), detail: "TIFF" },
    { what: "a HEIC", make: async () => Buffer.from("\0\0\0\x18ftypheic\0\0\0\0mif1heic"), detail: "HEIC" },
    { what: "an MP4", make: async () => Buffer.from("\0\0\0\x18ftypisom\0\0\x02\0isommp41"), detail: "video" },
    { what: "a PDF", make: async () => Buffer.from("%PDF-1.7"), detail: "PDF" },
    {
      what: "PNG's first bytes and then a text",
      make: async () => begun([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]),
      detail: "PNG",
    },
    { what: "JPEG's first bytes and then a text", make: async () => begun([0xff, 0xd8, 0xff]), detail: "JPEG" },
    {
      what: "WebP's first bytes and then a text",
      make: async () => Buffer.from("RIFF\x20\0\0\0WEBPVP8 and so on, and so on"),
      detail: "WEBP",
    },
    {
      what: "AVIF's first bytes and then a text",
      make: async () => Buffer.from("\0\0\0\x18ftypavif\0\0\0\0mif1avif and so on"),
      detail: "AVIF",
    },
  ])("$what", async ({ make, detail }) => {
    await expect(readPicture(await make())).rejects.toMatchObject({
      code: "unsupported-media-type",
      message: expect.stringContaining(detail),
    });
  });

  test.each([
    { width: 8001, height: 8000 },
    { width: 100_000, height: 100_000 },
    { width: 2_000_000_000, height: 2_000_000_000 },
  ])("a PNG of few bytes that claims $width × $height, before it is decoded", async ({ width, height }) => {
    const small = await solid("red").png().toBuffer();
    const started = process.memoryUsage.rss();
    const refusal = await readPicture(claiming(small, width, height)).catch((error) => error);
    expect(["too-large", "unsupported-media-type"]).toContain(refusal.code);
    if (width < 200_000) expect(refusal.code).toBe("too-large");
    expect(process.memoryUsage.rss() - started).toBeLessThan(100_000_000);
  });

  test("64 megapixels and one row more, but not 64 megapixels", async () => {
    const create = { width: 8000, height: 8000, channels: 3, background: "red" } as const;
    const largest = await sharp({ create }).toColourspace("b-w").png().toBuffer();
    expect(await readPicture(largest)).toMatchObject({ width: 8000, height: 8000 });
    await expect(readPicture(claiming(largest, 8000, 8001))).rejects.toMatchObject({ code: "too-large" });
  }, 30_000);

  test("a file that is not there is the store's failure, not the caller's", async () => {
    await expect(readPicture("/nonexistent/picture")).rejects.toMatchObject({ code: "storage-unavailable" });
  });
});

describe("thumbnails", () => {
  test.each([
    { width: 2000, height: 1000, to: { width: 512, height: 256 }, small: { width: 256, height: 128 } },
    { width: 300, height: 1500, to: { width: 102, height: 512 }, small: { width: 51, height: 256 } },
    { width: 30, height: 20, to: { width: 30, height: 20 }, small: { width: 30, height: 20 } },
  ])("of $width × $height are WebPs, never enlarged", async ({ width, height, to, small }) => {
    const picture = await sharp({ create: { width, height, channels: 3, background: "red" } })
      .png()
      .toBuffer();
    const { webps } = await makeThumbnails(picture);
    expect(webps.map(({ edge }) => edge)).toEqual([512, 256]);
    const shown = await Promise.all(webps.map(({ bytes }) => sharp(bytes).metadata()));
    expect(shown).toMatchObject([to, small].map((size) => ({ ...size, format: "webp" })));
  });

  test.each(["b-w", "rgb16"] as const)(
    "of a picture in %s have a placeholder of its colour and shape",
    async (space) => {
      const grey = { width: 400, height: 200, channels: 3, background: "#808080" } as const;
      const picture = await sharp({ create: grey }).toColourspace(space).png().toBuffer();
      const { thumbhash } = await makeThumbnails(picture);
      const hash = Buffer.from(thumbhash, "base64");
      expect(thumbHashToApproximateAspectRatio(hash)).toBeCloseTo(2, 0);
      const { r, g, b } = thumbHashToAverageRGBA(hash);
      for (const part of [r, g, b]) expect(part).toBeCloseTo(0.5, 1);
    },
  );
});

test("of twenty pictures at once only a few are decoded, and the process is not held up", async () => {
  const large = await noisy(1200, 800).jpeg().toBuffer();
  let longest = 0;
  let most = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
    const { queue, process } = sharp.counters();
    most = Math.max(most, queue + process);
  }, 1);
  const started = performance.now();
  const pictures = await Promise.all(Array.from({ length: 20 }, () => readPicture(large)));
  clearInterval(timer);
  expect(new Set(pictures.map(({ bytes }) => sha256(bytes))).size).toBe(1);
  expect(most).toBeGreaterThan(0);
  expect(most).toBeLessThanOrEqual(Math.max(2, availableParallelism()));
  // In shares of the whole: how long the whole takes is the machine's affair.
  expect(longest).toBeLessThan((performance.now() - started) / 4);
}, 30_000);

test("pictures in memory get their thumbnails before more are read", async () => {
  const picture = await noisy(300, 200).jpeg().toBuffer();
  let held = 0;
  let most = 0;
  const keep = async () => {
    const { bytes } = await readPicture(picture);
    held += 1;
    most = Math.max(most, held);
    await makeThumbnails(bytes);
    held -= 1;
  };
  await Promise.all(Array.from({ length: 30 }, keep));
  expect(most).toBeLessThanOrEqual(2 * Math.max(2, availableParallelism()));
});

function solid(background: string): Sharp {
  return sharp({ create: { width: 30, height: 30, channels: 3, background } });
}

function noisy(width: number, height: number): Sharp {
  const noise = { type: "gaussian" as const, mean: 128, sigma: 40 };
  return sharp({ create: { width, height, channels: 3, background: "red", noise } });
}

function begun(first: number[]): Buffer {
  return Buffer.concat([Buffer.from(first), Buffer.from("and then a text that is no picture at all".repeat(3))]);
}

/** The same PNG with another size in its header, and a checksum that agrees. */
function claiming(png: Uint8Array, width: number, height: number): Uint8Array {
  const bytes = Buffer.from(png);
  bytes.writeUInt32BE(width, 16);
  bytes.writeUInt32BE(height, 20);
  bytes.writeUInt32BE(crc32(bytes.subarray(12, 29)), 29);
  return bytes;
}
