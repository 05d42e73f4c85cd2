/** What is needed of a file system, here or on another host. Paths are absolute; errors are the system's own. */
import type { InputFile } from "../driver.ts";

export interface Disk {
  /** Null when there is nothing of that name. */
  find(path: string): Promise<{ size: number; isDirectory: boolean } | null>;
  /** The plain files of a directory; none when it is not there. */
  list(path: string): Promise<{ name: string; size: number }[]>;
  /** The names of the directories in a directory; none when it is not there. */
  listDirectories(path: string): Promise<string[]>;
  makeDirectory(path: string): Promise<void>;
  /** Whole or not at all: under a temporary name, then renamed. */
  write(path: string, file: Pick<InputFile, "size" | "stream">): Promise<void>;
  /** Replaces what is there. */
  rename(from: string, to: string): Promise<void>;
  /** No error when it is not there. */
  remove(path: string): Promise<void>;
}
