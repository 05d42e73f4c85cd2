/** URLs of our own: how stored files are shown, signed and recognised. */
import { randomBytes } from "node:crypto";
import type { Secrets } from "../auth/secrets.ts";
import { readThumbnailKey } from "../storage/keys.ts";

/** A private file's URL works for ten to eleven minutes: the start is rounded so that a view asked twice is the same. */
const signedSeconds = 600;
const roundedSeconds = 60;

export interface Links {
  publicUrl: string;
  /** What a stored file's key follows in its plain URL. */
  base: string;
  /**
   * What a key follows in a text from the database that is still to be signed: unguessable, so that no caller's words
   * can pass for it.
   */
  mark: string;
  /** Puts signed URLs in place of marked keys. */
  sign(text: string): string;
  /** Absolute URL of a stored file; signed for those who see it only through an object. */
  file(key: string, options: { isSigned: boolean }): string;
  /** Whether the query of a file's URL carries a signature that still holds, a picture's for its thumbnails too. */
  isSigned(key: string, query: URLSearchParams): boolean;
  /**
   * The canonical form of a URL that a caller wrote: a path (`/api/files/{key}`, `/api/images/{id}`) for our own,
   * recognised by path under any of our origins and whatever signature it bears; absolute for others; null when it is
   * no http(s) URL.
   */
  canonical(url: string, requestOrigin: string): { own: string } | { remote: string } | null;
}

/** What is signed: who may load a picture may load its thumbnails, under the same signature. */
function subjectOf(key: string, expires: string | number): string {
  return `file ${readThumbnailKey(key).picture} ${expires}`;
}

export function createLinks(publicUrl: string, secrets: Secrets): Links {
  const publicOrigin = new URL(publicUrl).origin;
  const basePath = new URL(publicUrl).pathname.replace(/\/$/, "");
  const base = `${publicUrl}/api/files/`;
  const mark = `~${randomBytes(24).toString("base64url")}~`;
  const marked = new RegExp(`${mark}([\\w.-]+)`, "g");
  const links: Links = {
    publicUrl,
    base,
    mark,
    sign: (text) =>
      text.includes(mark) ? text.replace(marked, (_all, key: string) => links.file(key, { isSigned: true })) : text,
    file(key, { isSigned }) {
      const url = `${base}${key}`;
      if (!isSigned) return url;
      const now = Math.floor(Date.now() / 1000);
      const expires = (Math.floor(now / roundedSeconds) + 1) * roundedSeconds + signedSeconds;
      return `${url}?expires=${expires}&signature=${secrets.sign(subjectOf(key, expires))}`;
    },
    isSigned(key, query) {
      const expires = query.get("expires") ?? "";
      if (!/^\d{1,12}$/.test(expires) || Number(expires) * 1000 < Date.now()) return false;
      return secrets.verify(subjectOf(key, expires), query.get("signature") ?? "");
    },
    canonical(url, requestOrigin) {
      const isRelative = url.startsWith("/") && !url.startsWith("//");
      let parsed: URL;
      try {
        parsed = new URL(url, isRelative ? publicUrl : undefined);
      } catch {
        return null;
      }
      if (parsed.protocol !== "http:" && parsed.protocol !== "https:") return null;
      const isOwn = isRelative || parsed.origin === publicOrigin || parsed.origin === requestOrigin;
      if (!isOwn) return parsed.username || parsed.password ? null : { remote: parsed.href };
      const path = parsed.pathname.startsWith(`${basePath}/api/`)
        ? parsed.pathname.slice(basePath.length)
        : parsed.pathname;
      return { own: path };
    },
  };
  return links;
}
