/** sd-scripts' output as it grows: tqdm's bars, redrawn after carriage returns, and lines of text. */

export interface BarUpdate {
  step: number;
  total: number;
  loss?: number;
}

const bar = /^steps:\s+\d+%\|[^|]*\|\s*(\d+)\/(\d+)\s*\[([^\]]*)\]?/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: that is how terminals are told colours.
const colours = /\x1b\[[0-9;?]*[A-Za-z]/g;
/** What a reason for a failure is looked for in: a traceback of torch is long. */
const keptLines = 200;
/** Neither a bar nor a traceback is longer; whatever never ends its line must not fill the memory. */
const longestLine = 10_000;

export class TrainingLog {
  private readonly decoder = new TextDecoder();
  private rest = "";
  private readonly kept: string[] = [];

  /** The last lines, without bars. */
  get lines(): readonly string[] {
    return this.kept;
  }

  /** Takes the next piece and returns what the bar of the steps said in it, one update a step. */
  push(piece: Uint8Array): BarUpdate[] {
    const lines = (this.rest + this.decoder.decode(piece, { stream: true })).split(/[\r\n]/);
    this.rest = (lines.pop() ?? "").slice(-longestLine);
    return this.read(lines);
  }

  /** What came after the last line's end, of a log that is whole. */
  end(): BarUpdate[] {
    const rest = this.rest;
    this.rest = "";
    return this.read([rest]);
  }

  private read(lines: string[]): BarUpdate[] {
    const updates: BarUpdate[] = [];
    for (const raw of lines) {
      const line = raw.replace(colours, "").trim();
      if (line === "") continue;
      const update = parseBar(line);
      if (update) {
        if (updates.at(-1)?.step === update.step) updates.pop();
        updates.push(update);
      } else if (!/^[^|]*:\s+\d+%\|/.test(line)) {
        this.kept.push(line.slice(0, longestLine));
        if (this.kept.length > keptLines) this.kept.shift();
      }
    }
    return updates;
  }
}

/** Only the bar of the training's own steps: others count latents, samples, validation. */
function parseBar(line: string): BarUpdate | null {
  const found = bar.exec(line);
  if (!found) return null;
  const [, step, total, details = ""] = found;
  const loss = Number(/\b(?:avr_loss|loss)=([^\s,\]]+)/.exec(details)?.[1]);
  return { step: Number(step), total: Number(total), ...(Number.isFinite(loss) ? { loss } : {}) };
}
