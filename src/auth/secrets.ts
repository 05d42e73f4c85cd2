/**
 * What SECRET_KEY is for: sealing engine passwords (AES-256-GCM), signing file URLs, recognising what is not stored. One
 * key a purpose, by HKDF.
 */
import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes, timingSafeEqual } from "node:crypto";

export interface Secrets {
  /** `keyId.iv.tag.data` in base64url: the id tells after a rotation which key it was. */
  seal(plain: string): string;
  /** @throws Error when it was sealed under another key, or changed */
  open(sealed: string): string;
  /** A MAC of 128 bits in base64url. */
  sign(text: string): string;
  verify(text: string, signature: string): boolean;
  /**
   * A MAC of 256 bits to recognise by what must not be stored as it is: what callers typed or sent. Another purpose
   * gives another value, and nobody without the key can try guesses against it.
   */
  digest(purpose: "idempotency" | "throttle", text: string): Buffer;
  /** Tells one key from another without revealing it; the database keeps it. */
  checkValue: string;
}

export function createSecrets(secretKey: string): Secrets {
  const derive = (purpose: string) => Buffer.from(hkdfSync("sha256", secretKey, "atelier", purpose, 32));
  const sealingKey = derive("seal");
  const signingKey = derive("sign");
  const digestKeys = { idempotency: derive("idempotency"), throttle: derive("throttle") };
  const keyId = derive("key-id").toString("base64url").slice(0, 8);
  const sign = (text: string) => createHmac("sha256", signingKey).update(text).digest().subarray(0, 16);
  return {
    checkValue: derive("check").toString("base64url"),
    seal(plain) {
      const iv = randomBytes(12);
      const cipher = createCipheriv("aes-256-gcm", sealingKey, iv);
      const data = Buffer.concat([cipher.update(plain, "utf8"), cipher.final()]);
      return [keyId, ...[iv, cipher.getAuthTag(), data].map((part) => part.toString("base64url"))].join(".");
    },
    open(sealed) {
      const [id, ...parts] = sealed.split(".");
      const [iv, tag, data] = parts.map((part) => Buffer.from(part, "base64url"));
      if (id !== keyId || !iv || !tag || !data) throw new Error("sealed under another SECRET_KEY");
      const decipher = createDecipheriv("aes-256-gcm", sealingKey, iv);
      decipher.setAuthTag(tag);
      return Buffer.concat([decipher.update(data), decipher.final()]).toString("utf8");
    },
    sign: (text) => sign(text).toString("base64url"),
    digest: (purpose, text) => createHmac("sha256", digestKeys[purpose]).update(text).digest(),
    verify(text, signature) {
      const given = Buffer.from(signature, "base64url");
      return given.length === 16 && timingSafeEqual(given, sign(text));
    },
  };
}
