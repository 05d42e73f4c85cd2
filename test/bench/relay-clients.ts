/**
 * Sockets of a process of their own for `bun run bench relay`: so many, spread over so many objects. Says `open` when all
 * have their snapshot; for each line that comes in then, how often each change was told and when last.
 */
export {};

const [base = "", count = "1", objects = "1"] = process.argv.slice(2);
const arrivals = new Map<number, { times: number; lastAt: number }>();

function open(object: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${base}/${object}`);
    socket.onmessage = ({ data }) => {
      const text = String(data);
      if (text.startsWith('{"type":"snapshot"')) return resolve();
      const change = Number(/"change (\d+)"/.exec(text)?.[1] ?? -1);
      const known = arrivals.get(change) ?? { times: 0, lastAt: 0 };
      arrivals.set(change, { times: known.times + 1, lastAt: performance.timeOrigin + performance.now() });
    };
    socket.onerror = () => reject(new Error(`no socket on ${base}/${object}`));
  });
}

const batch = 100;
for (let i = 0; i < Number(count); i += batch) {
  const size = Math.min(batch, Number(count) - i);
  await Promise.all(Array.from({ length: size }, (_, k) => open(1 + ((i + k) % Number(objects)))));
}
process.stdout.write("open\n");
for await (const _line of console) {
  process.stdout.write(`${JSON.stringify([...arrivals])}\n`);
}
process.exit(0);
