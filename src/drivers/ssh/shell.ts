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
  private stdout = Buffer.alloc(0);
  private stderr = "";
  private previous: Promise<unknown> = Promise.resolve();
  private end: { marker: string; resolve: (result: ScriptResult) => void; reject: (error: unknown) => void } | null =
    null;
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
      const marker = crypto.randomUUID();
      this.end = { marker, resolve, reject };
      this.channel.write(`(\n${text}\n) < /dev/null\nprintf '%s %s\\n' ${marker} "$?"\n`);
    });
  }

  private hear(chunk: Buffer): void {
    if (!this.end) return;
    const from = Math.max(0, this.stdout.length - 64);
    this.stdout = Buffer.concat([this.stdout, chunk]);
    const { marker, resolve } = this.end;
    const at = this.stdout.indexOf(marker, from);
    if (at < 0 || this.stdout.at(-1) !== 0x0a) {
      if (this.stdout.length > maxOutputBytes) {
        this.break(new EngineError("engine-failed", "The server answers without end"));
        this.channel.destroy();
      }
      return;
    }
    const code = Number(this.stdout.subarray(at + marker.length).toString());
    const stdout = this.stdout.subarray(0, at);
    this.end = null;
    this.stdout = Buffer.alloc(0);
    resolve({ code, stdout, stderr: this.stderr });
  }

  private break(error: Error): void {
    this.fault ??= error;
    this.end?.reject(this.fault);
    this.end = null;
  }
}
