/** Files over SFTP. Reads and writes keep many requests under way, or a distant host would get one piece a round trip. */
import type { SFTPWrapper } from "ssh2";
import { EngineError, type InputFile } from "../driver.ts";
import { failure } from "../http.ts";
import { type SshAddress, SshConnection } from "./connection.ts";

const pieceBytes = 32_768;
const piecesUnderWay = 64;

/** Of the SFTP protocol, draft 02, section 7. */
const noSuchFile = 2;

export interface ListedFile {
  name: string;
  size: number;
}

/** One request as a promise. */
function ask<T>(send: (callback: (error?: Error | null, value?: T) => void) => unknown): Promise<T> {
  return new Promise((resolve, reject) => {
    send((error, value) => (error ? reject(error) : resolve(value as T)));
  });
}

/** Null for what is not there. */
async function orNull<T>(promise: Promise<T>): Promise<T | null> {
  return promise.catch((error) => {
    if ((error as { code?: number }).code === noSuchFile) return null;
    throw error;
  });
}

/** Null when there is nothing of that name. */
export async function findFile(
  sftp: SFTPWrapper,
  path: string,
): Promise<{ size: number; isDirectory: boolean } | null> {
  const stats = await orNull(ask<import("ssh2").Stats>((done) => sftp.stat(path, done)));
  return stats && { size: stats.size, isDirectory: stats.isDirectory() };
}

/** The plain files of a directory; none when it is not there. */
export async function listFiles(sftp: SFTPWrapper, path: string): Promise<ListedFile[]> {
  const entries = await orNull(ask<import("ssh2").FileEntryWithStats[]>((done) => sftp.readdir(path, done)));
  return (entries ?? [])
    .filter((entry) => entry.attrs.isFile())
    .map((entry) => ({ name: entry.filename, size: entry.attrs.size }));
}

/** The names of the directories in a directory; none when it is not there. */
export async function listDirectories(sftp: SFTPWrapper, path: string): Promise<string[]> {
  const entries = await orNull(ask<import("ssh2").FileEntryWithStats[]>((done) => sftp.readdir(path, done)));
  return (entries ?? []).filter((entry) => entry.attrs.isDirectory()).map((entry) => entry.filename);
}

/** Makes a directory and those above it that are missing. */
export async function makeDirectory(sftp: SFTPWrapper, path: string): Promise<void> {
  if (await findFile(sftp, path)) return;
  const parent = path.slice(0, Math.max(0, path.lastIndexOf("/")));
  if (parent) await makeDirectory(sftp, parent);
  await ask((done) => sftp.mkdir(path, done)).catch(async (error) => {
    // Another worker was faster.
    if (!(await findFile(sftp, path))) throw error;
  });
}

export async function removeFile(sftp: SFTPWrapper, path: string): Promise<void> {
  await orNull(ask((done) => sftp.unlink(path, done)));
}

/** Replaces what is there: the plain rename does not, and servers other than OpenSSH lack the one that does. */
export async function renameFile(sftp: SFTPWrapper, from: string, to: string): Promise<void> {
  await ask((done) => sftp.ext_openssh_rename(from, to, done)).catch(async () => {
    await removeFile(sftp, to);
    await ask((done) => sftp.rename(from, to, done));
  });
}

/** Writes a file under another name in the same directory, and renames it: nobody ever sees half of it. */
export async function writeFile(sftp: SFTPWrapper, path: string, file: Pick<InputFile, "size" | "stream">) {
  const aside = `${path.slice(0, path.lastIndexOf("/") + 1)}.${crypto.randomUUID()}.part`;
  try {
    await writeInPlace(sftp, aside, file);
    await renameFile(sftp, aside, path);
  } catch (error) {
    await removeFile(sftp, aside).catch(() => {});
    throw error;
  }
}

async function writeInPlace(sftp: SFTPWrapper, path: string, file: Pick<InputFile, "size" | "stream">): Promise<void> {
  const handle = await ask<Buffer>((done) => sftp.open(path, "w", done));
  const underWay = new Set<Promise<unknown>>();
  let fault: unknown = null;
  let position = 0;
  try {
    for await (const chunk of await file.stream()) {
      const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
      for (let start = 0; start < bytes.length; start += pieceBytes) {
        const length = Math.min(pieceBytes, bytes.length - start);
        const at = position;
        position += length;
        const written = ask((done) => sftp.write(handle, bytes, start, length, at, done)).catch((error) => {
          fault ??= error;
        });
        underWay.add(written);
        written.finally(() => underWay.delete(written));
        if (underWay.size >= piecesUnderWay) await Promise.race(underWay);
        if (fault) throw fault;
      }
    }
    await Promise.all(underWay);
    if (fault) throw fault;
  } finally {
    await ask((done) => sftp.close(handle, done)).catch((error) => {
      fault ??= error;
    });
  }
  if (fault) throw fault;
  if (position !== file.size) throw new Error(`an input file has ${position} bytes instead of ${file.size}`);
}

/**
 * Streams a file of a host over a connection of its own, to the size that it has now.
 * @throws EngineError also in the midst of the stream: half a file never passes for a whole
 */
export async function readRemote(
  address: SshAddress,
  path: string,
  signal: AbortSignal,
): Promise<ReadableStream<Uint8Array>> {
  const ssh = await SshConnection.open(address, signal);
  try {
    return await ssh.sftp(signal, async (sftp) => {
      const found = await findFile(sftp, path);
      if (!found) throw new EngineError("engine-failed", "The engine no longer has the result");
      const handle = await ask<Buffer>((done) => sftp.open(path, "r", done));
      return streamOf(ssh, sftp, handle, found.size, signal);
    });
  } catch (error) {
    ssh.close();
    throw failure(error, signal);
  }
}

function streamOf(ssh: SshConnection, sftp: SFTPWrapper, handle: Buffer, size: number, signal: AbortSignal) {
  let asked = 0;
  const underWay: Promise<Buffer | Error>[] = [];
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        while (asked < size && underWay.length < piecesUnderWay) {
          const length = Math.min(pieceBytes, size - asked);
          // Settled as a value: one that nobody waits for any more must not count as unhandled.
          underWay.push(readFully(sftp, handle, asked, length).catch((error: Error) => error));
          asked += length;
        }
        const next = underWay.shift();
        if (!next) {
          ssh.close();
          return controller.close();
        }
        try {
          const piece = await ssh.sftp(signal, () => next);
          if (piece instanceof Error) throw piece;
          controller.enqueue(piece);
        } catch (error) {
          ssh.close();
          controller.error(failure(error, signal));
        }
      },
      cancel: () => ssh.close(),
    },
    { highWaterMark: 0 },
  );
}

/** A server may answer less than it was asked for. */
async function readFully(sftp: SFTPWrapper, handle: Buffer, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  for (let got = 0; got < length; ) {
    const count = await new Promise<number>((resolve, reject) => {
      sftp.read(handle, buffer, got, length - got, position + got, (error, bytesRead) =>
        error ? reject(error) : resolve(bytesRead),
      );
    });
    if (count === 0) throw new EngineError("unreachable", "The server's answer was cut off");
    got += count;
  }
  return buffer;
}
