/**
 * A process of its own that opens a store, `disk DIRECTORY` or `s3 OPTIONS-AS-JSON`, several times at once, and prints
 * the id each finds. It says that it is ready and waits for its input, so that several can be let go together.
 */
import { createDiskStorage } from "../../src/storage/disk.ts";
import { createS3Storage } from "../../src/storage/s3.ts";

const [kind, argument = ""] = process.argv.slice(2);
const open = () => (kind === "disk" ? createDiskStorage(argument) : createS3Storage(JSON.parse(argument)));
if (kind === "s3") await import("@aws-sdk/client-s3");
process.stdout.write("ready");
await Bun.stdin.text();
const ids = await Promise.all(Array.from({ length: 5 }, () => open().id()));
process.stdout.write(`${ids.join("\n")}\n`);
