/** The demo engines: programs on this machine's CPU that speak like the ones on GPU machines. */
import { join, resolve } from "node:path";
import { type Child, type ChildOptions, supervise } from "./supervisor.ts";

const program = resolve(import.meta.dirname, "../demo-engine/main.ts");

export interface DemoEngine {
  name: string;
  type: "train" | "infer";
  /** Settles with the port once it listens; a restart keeps it. */
  port: Promise<number>;
  child: Child;
}

/** What `DEMO_ENGINES=n` means: none for 0, else one for training and n - 1 for inference. */
export function planEngines(count: number): { name: string; type: "train" | "infer" }[] {
  return Array.from({ length: count }, (_, index) => {
    if (index === 0) return { name: "demo-train", type: "train" };
    return { name: index === 1 ? "demo-infer" : `demo-infer-${index}`, type: "infer" };
  });
}

/** Each on a port of its own choice, on loopback only: they ask nobody who he is. */
export function startEngines(
  count: number,
  dataDir: string,
  hooks: Pick<ChildOptions, "env" | "onChange" | "onGiveUp">,
): DemoEngine[] {
  return planEngines(count).map(({ name, type }) => {
    const listening = Promise.withResolvers<number>();
    let port = 0;
    const child = supervise({
      ...hooks,
      name,
      command: () => {
        const place = ["--host", "127.0.0.1", "--port", String(port), "--directory", join(dataDir, "engines", name)];
        return [program, ...place, "--stdin"];
      },
      onStdout: (line) => {
        const told = parsePort(line);
        if (told === null) return false;
        port = told;
        listening.resolve(told);
        return true;
      },
    });
    return { name, type, port: listening.promise, child };
  });
}

/** `{"port":8188}` -> 8188; null for any other line. */
function parsePort(line: string): number | null {
  try {
    const { port } = JSON.parse(line);
    return Number.isInteger(port) ? port : null;
  } catch {
    return null;
  }
}
