/** A process of its own that opens a store and prints its id: `disk DIRECTORY` or `s3 OPTIONS-AS-JSON`. */
import { createDiskStorage } from "../../src/storage/disk.ts";
import { createS3Storage } from "../../src/storage/s3.ts";

const [kind, argument = ""] = process.argv.slice(2);
const storage = kind === "disk" ? createDiskStorage(argument) : createS3Storage(JSON.parse(argument));
process.stdout.write(await storage.id());
