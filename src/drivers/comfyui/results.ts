/** The files that a finished run has left on its engine. */
import { z } from "zod";
import type { Artifact } from "../driver.ts";
import type { EngineFile, HistoryEntry } from "./answers.ts";
import type { ComfyClient } from "./client.ts";
import { findFile, toArtifact, viewStream } from "./view.ts";

/** Pictures, as the history names them; previews and other passing files are left out. */
export function findImages(entry: HistoryEntry): Artifact[] {
  return Object.values(entry.outputs)
    .flatMap((output) => output.images ?? [])
    .filter((file) => file.type === "output")
    .map((file) => toArtifact("image", file));
}

/** A run of ours saves once; more files are left by an engine that broke while it saved. Bounds the search only. */
const mostFiles = 20;

/**
 * A trained model, which the history does not mention: looked up by the name that the engine must have given it. The
 * counter goes up with the files that are there, so the last is ours.
 */
export async function findModel(client: ComfyClient, prefix: string, signal: AbortSignal): Promise<Artifact | null> {
  const found = await lastModel(client, prefix, signal);
  return found && toArtifact("model", found.file);
}

/** Like `findModel`, where no history vouches for the file: null also when it was cut off while it was written. */
export async function findWholeModel(
  client: ComfyClient,
  prefix: string,
  signal: AbortSignal,
): Promise<Artifact | null> {
  const found = await lastModel(client, prefix, signal);
  if (!found || found.bytes === null) return null;
  const announced = await announcedBytes(await viewStream(client, { ...found.file }, signal));
  return announced === found.bytes ? toArtifact("model", found.file) : null;
}

async function lastModel(client: ComfyClient, prefix: string, signal: AbortSignal) {
  const subfolder = prefix.slice(0, prefix.lastIndexOf("/"));
  const name = prefix.slice(prefix.lastIndexOf("/") + 1);
  let last: { file: EngineFile; bytes: number | null } | null = null;
  for (let counter = 1; counter <= mostFiles; counter++) {
    const file = { filename: `${name}_${String(counter).padStart(5, "0")}_.safetensors`, subfolder, type: "output" };
    const found = await findFile(client, file, signal);
    if (!found) break;
    last = { file, ...found };
  }
  return last;
}

const safetensorsHeader = z.record(z.string(), z.looseObject({ data_offsets: z.array(z.number()).optional() }));
/** The largest header that the format allows. */
const headerAtMost = 100_000_000;

/** Size that a safetensors file says it has: 8 bytes of length, a JSON header, and data up to the highest offset. */
async function announcedBytes(stream: ReadableStream<Uint8Array>): Promise<number | null> {
  let head = Buffer.alloc(0);
  for await (const chunk of stream) {
    head = Buffer.concat([head, chunk]);
    if (head.length < 8) continue;
    const headerBytes = Number(head.readBigUInt64LE());
    if (headerBytes > headerAtMost) return null;
    if (head.length < 8 + headerBytes) continue;
    const header = parseHeader(head.toString("utf8", 8, 8 + headerBytes));
    return (
      header && 8 + headerBytes + Math.max(0, ...Object.values(header).flatMap((entry) => entry.data_offsets ?? []))
    );
  }
  return null;
}

function parseHeader(text: string): z.infer<typeof safetensorsHeader> | null {
  try {
    return safetensorsHeader.parse(JSON.parse(text));
  } catch {
    return null;
  }
}
