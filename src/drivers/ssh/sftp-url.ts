/** `sftp://user@host[:port]/path`, as a server's `shared_dir` may be written. */
export interface SftpUrl {
  username: string;
  host: string;
  port: number;
  /** Absolute, without a slash at the end. */
  path: string;
}

/** Null for anything else. */
export function parseSftpUrl(text: string): SftpUrl | null {
  if (!text.startsWith("sftp://") || !URL.canParse(text)) return null;
  const url = new URL(text);
  return {
    username: decodeURIComponent(url.username),
    host: url.hostname,
    port: Number(url.port || 22),
    path: decodeURIComponent(url.pathname).replace(/\/+$/, ""),
  };
}
