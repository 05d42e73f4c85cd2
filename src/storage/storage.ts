/** Where files lie: the interface of both stores. Keys are made by us, never by a caller: `pictures/ab/abcd….png`. */
import type { SpooledFile } from "./spool.ts";

export interface StoredObject {
  /** Size of the whole object in bytes, also when only a range of it is streamed. */
  size: number;
  stream(): ReadableStream<Uint8Array>;
}

export interface ListedObject {
  key: string;
  /** In bytes. */
  size: number;
  modifiedAt: Date;
}

/** Inclusive byte positions, as in a Range header. */
export interface ByteRange {
  start: number;
  end: number;
}

export interface Storage {
  /**
   * Stores a body under a key: whole or not at all, also when the process dies halfway. Storing the same key again
   * replaces it. A file that is already on our disk (an upload) is best given as such: the disk store then links it,
   * S3 sends it, and neither copies it first. Its owner still removes it.
   * @returns the size in bytes and the sha256 (lower-case hex) of what was written
   * @throws Problem "too-large" when the body is longer than `maxBytes`; "storage-unavailable" when the store fails
   */
  put(
    key: string,
    body: ReadableStream<Uint8Array> | Uint8Array | SpooledFile,
    options: { contentType: string; maxBytes?: number },
  ): Promise<{ size: number; hash: string }>;

  /**
   * Null when there is no such object, or could not be one of that key. A range's `end` past the last byte is cut to
   * it; a `start` past it streams nothing. Nothing is held until `stream()` is read.
   */
  get(key: string, range?: ByteRange): Promise<StoredObject | null>;

  /** Removes an object; one that does not exist is no error. */
  delete(key: string): Promise<void>;

  /**
   * Every object, in the order of its key's characters, so that it can be laid beside a table that is read in the same
   * order. What is stored or deleted meanwhile may show or not.
   */
  list(): AsyncIterable<ListedObject>;

  /**
   * Renames an object within the store, replacing what was there.
   * @throws Problem "not-found" when there is no object `from`
   */
  move(from: string, to: string): Promise<void>;

  /**
   * A URL that serves the object directly from the store for `ttlSeconds`, or null where the store has none (disk):
   * then the API serves the bytes.
   */
  signedUrl(
    key: string,
    options: { ttlSeconds: number; contentType: string; fileName?: string },
  ): Promise<string | null>;

  /**
   * A URL to which a client may PUT exactly `size` bytes of `contentType` within `ttlSeconds`, or null where the store
   * has none (disk). What arrives there is judged by nobody: read it before it counts as stored.
   */
  signedUpload(key: string, options: { ttlSeconds: number; contentType: string; size: number }): Promise<string | null>;

  /** The store's own lasting id, made at first use: a process on another store must notice. */
  id(): Promise<string>;
}
