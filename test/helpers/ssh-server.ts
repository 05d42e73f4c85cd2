/**
 * An SSH server within this process, by the library that our client is made with: for log-ins by password, which
 * OpenSSH's lets nobody try whose password we do not know, and where OpenSSH's is not to be had at all.
 */
import { spawn } from "node:child_process";
import { type FileHandle, mkdir, open, readdir, rename, stat, unlink } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import ssh2, { type Attributes, type AuthContext, type Connection, type SFTPWrapper } from "ssh2";

const { OPEN_MODE, STATUS_CODE } = ssh2.utils.sftp;

export interface Admission {
  username: string;
  /** OpenSSH's line of the only key that is let in. */
  publicKey?: string;
  password?: string;
  /** As PAM has it: the password is asked for, not offered. */
  isAsked?: boolean;
  /** What the log-in's shell says before it does what it is told. */
  greeting?: string;
}

export interface InProcessServer {
  port: number;
  /** Breaks off every connection and listens no more. */
  stop(): Promise<void>;
}

export async function startInProcess(hostKey: string, admission: Admission, port = 0): Promise<InProcessServer> {
  const server = new ssh2.Server({ hostKeys: [hostKey] }, (client) => serve(client, admission));
  const sockets = new Set<Socket>();
  const listener: Server = createServer((socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    server.injectSocket(socket);
  });
  await new Promise<void>((resolve) => listener.listen(port, "127.0.0.1", resolve));
  return {
    port: (listener.address() as { port: number }).port,
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => listener.close(resolve));
    },
  };
}

function serve(client: Connection, admission: Admission): void {
  client.on("error", () => {}); // a client that goes away in the middle
  client.on("authentication", (context) => {
    if (context.username === admission.username && isAdmitted(context, admission)) context.accept();
    else if (context.method === "keyboard-interactive" && admission.isAsked) {
      context.prompt([{ prompt: "Password: ", echo: false }], ([answer]) =>
        answer === admission.password ? context.accept() : context.reject(),
      );
    } else context.reject(["publickey", admission.isAsked ? "keyboard-interactive" : "password"]);
  });
  client.on("session", (accept) => {
    const session = accept();
    session.on("exec", (acceptExec, _reject, { command }) => {
      const channel = acceptExec();
      channel.write(admission.greeting ?? "");
      // A group of its own: what the shell has started ends with it, as with OpenSSH's hang-up.
      const child = spawn("/bin/sh", ["-c", command], { stdio: "pipe", detached: true });
      channel.pipe(child.stdin).on("error", () => {});
      child.stdout.pipe(channel);
      child.stderr.pipe(channel.stderr);
      child.once("close", (code) => {
        channel.exit(code ?? 1);
        channel.end();
      });
      channel.once("close", () => {
        if (child.pid && child.exitCode === null && child.signalCode === null) process.kill(-child.pid, "SIGKILL");
      });
    });
    session.on("sftp", (acceptSftp) => serveFiles(acceptSftp()));
  });
}

function isAdmitted(context: AuthContext, { publicKey, password, isAsked }: Admission): boolean {
  if (context.method === "password") return !isAsked && password !== undefined && context.password === password;
  if (context.method !== "publickey" || !publicKey) return false;
  const key = ssh2.utils.parseKey(publicKey);
  if (key instanceof Error || !key.getPublicSSH().equals(context.key.data)) return false;
  const { blob, signature, hashAlgo } = context;
  return !blob || !signature || key.verify(blob, signature, hashAlgo) === true;
}

function serveFiles(sftp: SFTPWrapper): void {
  const files = new Map<number, FileHandle>();
  const directories = new Map<number, string[]>();
  let last = 0;
  const handleOf = (id: number) => {
    const handle = Buffer.alloc(4);
    handle.writeUInt32BE(id);
    return handle;
  };
  const file = (handle: Buffer) => files.get(handle.readUInt32BE(0)) as FileHandle;
  const attributes = async (path: string): Promise<Attributes> => {
    const { mode, uid, gid, size, atimeMs, mtimeMs } = await stat(path);
    return { mode, uid, gid, size, atime: Math.floor(atimeMs / 1000), mtime: Math.floor(mtimeMs / 1000) };
  };
  const answer = (request: number, work: () => Promise<unknown>) =>
    work().then(
      (isAnswered) => isAnswered !== true && sftp.status(request, STATUS_CODE.OK),
      (error) => sftp.status(request, error.code === "ENOENT" ? STATUS_CODE.NO_SUCH_FILE : STATUS_CODE.FAILURE),
    );
  // Whoever goes away leaves its files open.
  sftp.once("close", () => {
    for (const left of files.values()) left.close().catch(() => {});
    files.clear();
  });
  sftp.on("OPEN", (request, path, flags) =>
    answer(request, async () => {
      const opened = await open(path, flags & OPEN_MODE.WRITE ? "w" : "r");
      last += 1;
      files.set(last, opened);
      sftp.handle(request, handleOf(last));
      return true;
    }),
  );
  sftp.on("READ", (request, handle, position, length) =>
    answer(request, async () => {
      const { bytesRead, buffer } = await file(handle).read(Buffer.alloc(length), 0, length, position);
      if (bytesRead === 0) sftp.status(request, STATUS_CODE.EOF);
      else sftp.data(request, buffer.subarray(0, bytesRead));
      return true;
    }),
  );
  sftp.on("WRITE", (request, handle, position, data) =>
    answer(request, async () => void (await file(handle).write(data, 0, data.length, position))),
  );
  sftp.on("CLOSE", (request, handle) =>
    answer(request, async () => {
      const id = handle.readUInt32BE(0);
      await files.get(id)?.close();
      files.delete(id);
      directories.delete(id);
    }),
  );
  sftp.on("OPENDIR", (request, path) =>
    answer(request, async () => {
      last += 1;
      directories.set(
        last,
        (await readdir(path)).map((name) => `${path}/${name}`),
      );
      sftp.handle(request, handleOf(last));
      return true;
    }),
  );
  sftp.on("READDIR", (request, handle) =>
    answer(request, async () => {
      const paths = directories.get(handle.readUInt32BE(0))?.splice(0) ?? [];
      if (paths.length === 0) sftp.status(request, STATUS_CODE.EOF);
      else {
        const entries = paths.map(async (path) => {
          const filename = path.slice(path.lastIndexOf("/") + 1);
          return { filename, longname: filename, attrs: await attributes(path) };
        });
        sftp.name(request, await Promise.all(entries));
      }
      return true;
    }),
  );
  for (const name of ["STAT", "LSTAT"] as const) {
    sftp.on(name, (request: number, path: string) =>
      answer(request, async () => {
        sftp.attrs(request, await attributes(path));
        return true;
      }),
    );
  }
  sftp.on("MKDIR", (request, path) => answer(request, () => mkdir(path)));
  sftp.on("REMOVE", (request, path) => answer(request, () => unlink(path)));
  sftp.on("RENAME", (request, from, to) => answer(request, () => rename(from, to)));
  sftp.on("EXTENDED", (request) => sftp.status(request, STATUS_CODE.OP_UNSUPPORTED));
}
