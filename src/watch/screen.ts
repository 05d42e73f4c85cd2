/** Where `watch` draws: one line that is redrawn at the bottom of a terminal, or plain lines for a pipe. */

export interface Status {
  /** 0 to 100. */
  progress: number;
  status: string;
  /** What is going on within `running`, or in front of the queue; empty for nothing to say. */
  detail: string;
  secondsLeft: number | null;
}

export interface Screen {
  isTerminal: boolean;
  /** A line that stays. */
  print(line: string): void;
  /** Shows where things are: in place on a terminal, else as a line, at every step worth one. */
  show(status: Status): void;
  /** Takes the redrawn line away. */
  end(): void;
  paint(colour: "bold" | "dim" | "green" | "red", text: string): string;
}

type Output = Pick<NodeJS.WriteStream, "write"> & { isTTY?: boolean; columns?: number };

const codes = { bold: 1, dim: 2, green: 32, red: 31 };
const eighths = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
const barWidth = { least: 10, most: 40 };
/** A pipe gets a line for every so many points of a hundred. */
const plainStep = 10;

export function createScreen(output: Output, mayPaint: boolean): Screen {
  const isTerminal = Boolean(output.isTTY);
  const hasColour = isTerminal && mayPaint;
  const paint: Screen["paint"] = (colour, text) => (hasColour ? `\x1b[${codes[colour]}m${text}\x1b[0m` : text);
  let hasBar = false;
  let said = "";
  const end = () => {
    if (hasBar) output.write("\r\x1b[K");
    hasBar = false;
  };
  const print = (line: string) => {
    end();
    output.write(`${line}\n`);
  };
  return {
    isTerminal,
    paint,
    print,
    end,
    show(status) {
      if (isTerminal) {
        output.write(`\r\x1b[K${drawBar(status, (output.columns || 80) - 1, paint)}`);
        hasBar = true;
        return;
      }
      const step = Math.floor(status.progress / plainStep) * plainStep;
      const key = `${status.status} ${status.detail.replace(/\d+/g, "#")} ${step}`;
      if (key !== said) print(describe(status));
      said = key;
    },
  };
}

/** `running  42 %  steps  0:12 left` */
function describe({ progress, status, detail, secondsLeft }: Status): string {
  const left = secondsLeft === null ? "" : `${formatSeconds(secondsLeft)} left`;
  const percent = status === "running" ? `${progress} %` : "";
  return [status, percent, detail, left].filter((part) => part !== "").join("  ");
}

/** Never wider than `width`: a line that wraps cannot be redrawn. */
export function drawBar(status: Status, width: number, paint: Screen["paint"] = (_colour, text) => text): string {
  const words = describe(status);
  const room = Math.min(barWidth.most, width - words.length - 2);
  if (room < barWidth.least) return words.slice(0, Math.max(0, width));
  const cells = (status.progress / 100) * room;
  const part = eighths[Math.floor((cells % 1) * 8)] ?? "";
  const filled = "█".repeat(Math.floor(cells)) + part;
  const empty = "░".repeat(room - filled.length);
  return `${paint("green", filled)}${paint("dim", empty)}  ${words}`;
}

/** 75 -> `1:15`, 3675 -> `1:01:15`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.ceil(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n: number) => String(n).padStart(2, "0");
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
