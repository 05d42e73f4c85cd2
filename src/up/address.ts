/** Where the API will listen, tried before anything is started. */
import { createServer } from "node:net";
import { UpError } from "./up-error.ts";

/**
 * The port to use: `port`, or a free one for 0.
 *
 * @throws UpError when nobody could listen there now
 */
export function checkAddress(host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", ({ code, message }: NodeJS.ErrnoException) => {
      const reason =
        {
          EADDRINUSE: `port ${port} on ${host} is in use; set PORT to another one`,
          EACCES: `port ${port} on ${host} needs more rights; set PORT to another one`,
          EADDRNOTAVAIL: `HOST ${host} is not an address of this machine`,
          ENOTFOUND: `HOST ${host} is not known`,
        }[code ?? ""] ?? `HOST ${host}, PORT ${port}: ${message}`;
      reject(new UpError(reason));
    });
    server.listen(port, host, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : port));
    });
  });
}

/** How to reach, from this machine, what listens on `host`: an address for all interfaces is not one to connect to. */
export function localUrl(host: string, port: number): string {
  const name = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "[::1]" : host.includes(":") ? `[${host}]` : host;
  return `http://${name}:${port}`;
}
