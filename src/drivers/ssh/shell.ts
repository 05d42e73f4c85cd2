/**
 * A POSIX shell on the other side that is opened once and given one script after another: what the log-in's own shell
 * does at its start, which may take half a second, is done once a connection.
 */
import type { ClientChannel } from "ssh2";
import { EngineError } from "../driver.ts";
import { quote } from "./quote.ts";

export interface ScriptResult {
  code: number;
  stdout: Buffer;
  /** The last of what was said on the side; it may be an earlier script's. */
  stderr: string;
}

/** Of what a script may say; the longest legitimate answer is a piece of a log. */
const maxOutputBytes = 4_000_000;
const keptStderr = 2_000;

export class RemoteShell {
  private chunks: Buffer[] = [];
  private size = 0;
  /** The last of what was said: an end marker may come in two pieces. */
  private tail = Buffer.alloc(0);
  private stderr = "";
  private previous: Promise<unknown> = Promise.resolve();
  private waiting: {
    begin: string;
    end: string;
    resolve: (result: ScriptResult) => void;
    reject: (error: unknown) => void;
  } | null = null;
  private fault: Error | null = null;

  /** @param channel of `sh -s` */
  constructor(private readonly channel: ClientChannel) {
    channel.on("data", (chunk: Buffer) => this.hear(chunk));
    channel.stderr.on("data", (chunk: Buffer) => {
      this.stderr = (this.stderr + chunk.toString()).slice(-keptStderr);
    });
    channel.on("error", (error: Error) => this.break(error));
    channel.on("close", () => this.break(new Error("the shell was closed")));
  }

  /**
   * Runs a script in a subshell without input.
   * @param values of the script's variables, any text but NUL. They go as quoted assignments to this shell, by its input;
   *   the log-in's own shell, which may have other rules of quoting, sees nothing but `sh -s`
   */
  run(script: string, values: Record<string, string>): Promise<ScriptResult> {
    const assignments = Object.entries(values).map(([name, value]) => `${name}=${quote(value)}\n`);
    const result = this.previous.then(() => this.send(`${assignments.join("")}${script}`));
    this.previous = result.catch(() => {});
    return result;
  }

  private send(text: string): Promise<ScriptResult> {
    return new Promise((resolve, reject) => {
      if (this.fault) return reject(this.fault);
      // At the beginning too: the log-in's own shell may have greeted us first.
      const [begin, end] = [crypto.randomUUID(), crypto.randomUUID()];
      this.waiting = { begin, end, resolve, reject };
      this.channel.write(`echo ${begin}\n(\n${text}\n) < /dev/null\nprintf '%s %s\\n' ${end} "$?"\n`);
    });
  }

  private hear(chunk: Buffer): void {
    if (!this.waiting) return;
    const { begin, end, resolve } = this.waiting;
    this.chunks.push(chunk);
    this.size += chunk.length;
    this.tail = Buffer.concat([this.tail.subarray(-2 * end.length), chunk]);
    if (this.tail.at(-1) === 0x0a && this.tail.includes(end)) {
      const said = Buffer.concat(this.chunks);
      const at = said.lastIndexOf(end);
      const stdout = said.subarray(said.indexOf(begin) + begin.length + 1, at);
      this.forget();
      resolve({ code: Number(said.subarray(at + end.length).toString()), stdout, stderr: this.stderr });
    } else if (this.size > maxOutputBytes) {
      this.break(new EngineError("engine-failed", "The server answers without end"));
      this.channel.destroy();
    }
  }

  private forget(): void {
    this.waiting = null;
    this.chunks = [];
    this.size = 0;
    this.tail = Buffer.alloc(0);
  }

  private break(error: Error): void {
    this.fault ??= error;
    this.waiting?.reject(this.fault);
    this.forget();
  }
}
