/** A process of a benchmark, spoken with by lines. */
export class Child {
  private readonly process;
  private readonly lines: AsyncIterator<string>;

  constructor(command: string[], environment: Record<string, string> = {}) {
    this.process = Bun.spawn([process.execPath, ...command], {
      env: { ...process.env, ...environment },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    this.lines = readLines(this.process.stdout);
  }

  /** The next line it says. */
  async line(): Promise<string> {
    const { done, value } = await this.lines.next();
    if (done) throw new Error("a process of the benchmark has ended");
    return value;
  }

  ask(): Promise<string> {
    this.process.stdin.write("\n");
    this.process.stdin.flush();
    return this.line();
  }

  async stop(): Promise<void> {
    this.process.kill();
    await this.process.exited;
  }
}

async function* readLines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}
