/** A client of its own process: keeps some requests under way for a time, and says how many were answered. */
export {};

const [url = "", seconds = "3", parallel = "16", token = ""] = process.argv.slice(2);
const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
const end = performance.now() + Number(seconds) * 1000;
let answered = 0;
async function ask(): Promise<void> {
  while (performance.now() < end) {
    const answer = await fetch(url, { headers });
    await answer.arrayBuffer();
    if (answer.status !== 200) throw new Error(`${url}: ${answer.status}`);
    answered += 1;
  }
}
await Promise.all(Array.from({ length: Number(parallel) }, ask));
process.stdout.write(String(answered / Number(seconds)));
