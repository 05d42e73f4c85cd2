/** One SSH connection: log-in with a pinned host key, commands, SFTP, and every failure turned into an EngineError. */
import ssh2, { type ConnectConfig, type SFTPWrapper } from "ssh2";
import { EngineError } from "../driver.ts";
import { failure } from "../http.ts";
import { algorithmsFor, formatHostKey, isHostKey } from "./host-key.ts";
import { RemoteShell, type ScriptResult } from "./shell.ts";

export interface SshAddress {
  host: string;
  port: number;
  username?: string;
  /** Also the passphrase of an encrypted `privateKey`. */
  password?: string;
  privateKey?: string;
  /** Pinned. Without it only `trust: "first-use"` connects. */
  hostKey?: string;
}

/** "first-use" takes any key where none is pinned yet: for probes alone, whose caller pins what was shown. */
export type Trust = "pinned" | "first-use";

/** Longer than any log-in takes; a caller in a hurry has its own limit. */
const handshakeMs = 20_000;
/** A connection that answers nothing for so long is dead, whatever TCP believes. */
const keepalive = { keepaliveInterval: 5_000, keepaliveCountMax: 3 };

export class SshConnection {
  private shell: Promise<RemoteShell> | null = null;
  private files: Promise<SFTPWrapper> | null = null;

  private constructor(
    private readonly client: ssh2.Client,
    /** What the server has shown, to be pinned. */
    readonly hostKey: string,
    private readonly lost: AbortSignal,
  ) {}

  /**
   * @throws EngineError "unreachable", "unauthorized", "untrusted", "wrong-engine"; what else aborts the signal
   */
  static async open(address: SshAddress, signal: AbortSignal, trust: Trust = "pinned"): Promise<SshConnection> {
    signal.throwIfAborted();
    const { host, port, username = "", password, privateKey, hostKey } = address;
    if (!hostKey && trust === "pinned") {
      throw new EngineError("untrusted", "The server's SSH host key is not pinned yet");
    }
    const client = new ssh2.Client();
    const lost = new AbortController();
    let shown: Buffer | null = null;
    const config: ConnectConfig = {
      ...keepalive,
      // Addresses in brackets are for URLs.
      host: host.replace(/^\[(.*)\]$/, "$1"),
      port,
      username,
      password,
      tryKeyboard: password !== undefined,
      readyTimeout: handshakeMs,
      hostVerifier: (key: Buffer) => {
        shown = key;
        return !hostKey || isHostKey(hostKey, key);
      },
      ...(privateKey ? { privateKey, passphrase: password } : {}),
      ...(hostKey ? { algorithms: { serverHostKey: algorithmsFor(hostKey) as never } } : {}),
    };
    const abort = () => client.destroy();
    signal.addEventListener("abort", abort, { once: true });
    try {
      await new Promise<void>((resolve, reject) => {
        // Stays: an error after the log-in, without a listener, would end the process.
        client.on("error", reject);
        client.on("close", () => {
          lost.abort();
          reject(new Error("the connection was closed"));
        });
        client.on("ready", resolve);
        client.on("keyboard-interactive", (_name, _instructions, _language, prompts, answer) =>
          answer(prompts.map(() => password ?? "")),
        );
        client.connect(config);
      });
      return new SshConnection(client, formatHostKey(shown as unknown as Buffer), lost.signal);
    } catch (error) {
      client.destroy();
      throw signal.aborted ? failure(error, signal) : refusal(error, hostKey, shown);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  get isOpen(): boolean {
    return !this.lost.aborted;
  }

  close(): void {
    this.client.end();
    this.client.destroy();
  }

  /**
   * Runs a script in a POSIX shell, one after another, see shell.ts.
   * @throws EngineError when the shell or the connection ends; what else aborts the signal
   */
  async run(script: string, values: Record<string, string>, signal: AbortSignal): Promise<ScriptResult> {
    return this.attend(signal, async () => {
      try {
        this.shell ??= new Promise((resolve, reject) =>
          this.client.exec("sh -s", (error, channel) => (error ? reject(error) : resolve(new RemoteShell(channel)))),
        );
        return await (await this.shell).run(script, values);
      } catch (error) {
        throw failure(error, signal);
      }
    });
  }

  /** Does something over SFTP; the channel is opened once. */
  async sftp<T>(signal: AbortSignal, work: (sftp: SFTPWrapper) => Promise<T>): Promise<T> {
    return this.attend(signal, async () => {
      this.files ??= new Promise<SFTPWrapper>((resolve, reject) =>
        this.client.sftp((error, sftp) => (error ? reject(error) : resolve(sftp))),
      );
      return work(await this.files);
    });
  }

  /** Neither a dead connection nor an aborted signal leaves anybody waiting for an answer. */
  private async attend<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const broken = AbortSignal.any([signal, this.lost]);
    let abort = () => {};
    const ended = new Promise<never>((_, reject) => {
      abort = () => reject(new Error("the connection was closed"));
      broken.addEventListener("abort", abort, { once: true });
      if (broken.aborted) abort();
    });
    try {
      return await Promise.race([work(), ended]);
    } catch (error) {
      // A refusal of the host's file system speaks for itself.
      throw this.lost.aborted || signal.aborted ? failure(error, signal) : error;
    } finally {
      broken.removeEventListener("abort", abort);
    }
  }
}

/** Opens a connection for one piece of work, and closes it. */
export async function withSsh<T>(
  address: SshAddress,
  signal: AbortSignal,
  trust: Trust,
  work: (ssh: SshConnection) => Promise<T>,
): Promise<T> {
  const ssh = await SshConnection.open(address, signal, trust);
  try {
    return await work(ssh);
  } catch (error) {
    // Trusted once is trusted, whatever comes of it: the next log-in is not to be somebody else's first.
    if (error instanceof EngineError && trust === "first-use") error.hostKey = ssh.hostKey;
    throw error;
  } finally {
    ssh.close();
  }
}

/** Why no connection came about. */
function refusal(error: unknown, pinned: string | undefined, shown: Buffer | null): EngineError {
  const { level, message = "" } = error as { level?: string; message?: string };
  const options = { cause: error };
  if (pinned && (shown ? !isHostKey(pinned, shown) : /no matching host key/.test(message))) {
    return new EngineError(
      "untrusted",
      "The server shows another SSH host key than the pinned one. If that is meant, set host_key to null",
      options,
    );
  }
  if (level === "client-authentication")
    return new EngineError("unauthorized", "The server refuses our log-in", options);
  if (/privateKey|passphrase/i.test(message)) {
    return new EngineError("unauthorized", "The private key cannot be read", options);
  }
  // It talks, but no SSH, or none of ours.
  if (level === "protocol" || level === "handshake") {
    return new EngineError("wrong-engine", "No SSH server that we can talk to answers there", options);
  }
  return new EngineError("unreachable", "The server does not answer", options);
}
