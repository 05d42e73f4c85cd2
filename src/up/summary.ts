/** What `up` says once everything runs: where it is, how to get in, what to try. */

export interface Summary {
  url: string;
  seconds: number;
  dataDir: string;
  /** Only if the embedded database lives elsewhere than below `dataDir`. */
  databasePlace: string | null;
  /** What runs, for people: `a worker`, `2 demo engines`. */
  parts: string[];
  /** Only when the account was made now: nobody can show the password a second time. */
  admin: { email: string; password: string } | null;
}

export function formatSummary(summary: Summary, hasColour: boolean): string {
  const paint = (code: number) => (text: string) => (hasColour ? `\x1b[${code}m${text}\x1b[0m` : text);
  const [bold, dim, green] = [paint(1), paint(2), paint(32)];
  const { url, admin } = summary;
  const rows: [string, string][] = [
    ["API", `${bold(`${url}/api`)}`],
    ["Docs", `${url}/docs`],
    ["Data", summary.dataDir],
  ];
  if (summary.databasePlace) rows.push(["Database", summary.databasePlace]);
  if (admin) rows.push(["Admin", `${bold(admin.email)}  ${bold(admin.password)}  ${dim("(shown only this once)")}`]);
  const email = admin?.email ?? "YOUR_EMAIL";
  const password = admin?.password ?? "YOUR_PASSWORD";
  const json = "-H 'Content-Type: application/json'";
  const body = quote(JSON.stringify({ email, password }));
  const commands = [
    `TOKEN=$(curl -s ${url}/api/sessions ${json} -d ${body} | sed 's/.*"token":"//; s/".*//')`,
    `curl -s ${url}/api/images ${json} -H "Authorization: Bearer $TOKEN" -d '{"prompt":"a lighthouse at dawn"}'`,
    `curl -s "${url}/api/images?sort=createdAt&pageSize=1" -H "Authorization: Bearer $TOKEN"`,
  ];
  return [
    "",
    `  ${green("●")} ${bold("Atelier is up")} ${dim(`after ${summary.seconds.toFixed(1)} s, with ${summary.parts.join(", ")}`)}`,
    "",
    ...rows.map(([label, value]) => `  ${dim(label.padEnd(10))}${value}`),
    "",
    `  ${dim("Try: log in for a token, paint a picture, see what became of it")}`,
    ...commands.map((command) => `  ${command}`),
    "",
    `  ${dim("Ctrl-C stops everything.")}`,
    "",
  ].join("\n");
}

/** For a POSIX shell: a password may hold a quote. */
function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
