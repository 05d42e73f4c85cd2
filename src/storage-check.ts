/**
 * `bun run storage check`: what of the store and the table of files does not fit together. Changes nothing. Exits 1
 * when a file has lost its bytes.
 */
import { BootError, boot, main } from "./boot.ts";
import { audit } from "./storage/audit.ts";

const usage = "Usage: bun run storage check";
/** Before, an object may still be waiting for its row. */
const youngMs = 60 * 60 * 1000;

await main(async () => {
  if (process.argv.slice(2).join(" ") !== "check") throw new BootError(usage);
  const { sql, storage } = await boot("storage check", process.env, 2);
  let lost = 0;
  let others = 0;
  try {
    for await (const finding of audit(sql, storage)) {
      if (finding.kind === "stray" && Date.now() - finding.modifiedAt.getTime() < youngMs) continue;
      if (finding.kind === "missing" || finding.kind === "wrong-size") lost += 1;
      else others += 1;
      console.log(describe(finding));
    }
    const [files] = await sql<{ count: number }[]>`select count(*) from files`;
    console.log(`${files?.count ?? 0} files, ${lost} damaged or lost, ${others} other findings`);
  } finally {
    await sql.end({ timeout: 1 });
  }
  process.exit(lost > 0 ? 1 : 0);
});

type Finding = ReturnType<typeof audit> extends AsyncGenerator<infer F> ? F : never;

function describe(finding: Finding): string {
  switch (finding.kind) {
    case "stray":
      return `stray         ${finding.key}: ${finding.size} bytes that no file owns; the nightly sweep removes them`;
    case "missing":
      return `missing       ${finding.key}: a file of user ${finding.userId ?? "nobody"} has no bytes`;
    case "wrong-size":
      return `wrong size    ${finding.key}: ${finding.size} bytes in place of ${finding.expected}`;
    case "no-thumbnail":
      return `no thumbnail  ${finding.key}`;
  }
}
