/** SSH host keys as people write them: `ssh-ed25519 AAAA…`, the type and the key in base64. */

/** @param blob the key as it goes over the wire: a length, the type's name, and the rest */
export function formatHostKey(blob: Buffer): string {
  return `${keyType(blob)} ${blob.toString("base64")}`;
}

/** Whether the key that a server shows is the pinned one. */
export function isHostKey(pinned: string, shown: Buffer): boolean {
  return Buffer.from(pinned.split(" ")[1] ?? "", "base64").equals(shown);
}

/**
 * The algorithms with which a server can prove that it has the pinned key. Asked for nothing else, it cannot show
 * another of its keys and look like a stranger.
 */
export function algorithmsFor(pinned: string): string[] {
  const type = pinned.split(" ")[0] as string;
  return type === "ssh-rsa" ? ["rsa-sha2-512", "rsa-sha2-256"] : [type];
}

function keyType(blob: Buffer): string {
  return blob.subarray(4, 4 + blob.readUInt32BE(0)).toString("latin1");
}
