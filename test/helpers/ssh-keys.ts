/** Key pairs for SSH. */
import ssh2 from "ssh2";

/** Of ssh2's own some in a thousand cannot be read, not even by itself: those are made anew. */
export function makeKeyPair(passphrase?: string): { public: string; private: string } {
  const locked = passphrase === undefined ? undefined : { passphrase, cipher: "aes256-ctr", rounds: 1 };
  for (;;) {
    const pair = ssh2.utils.generateKeyPairSync("ed25519", locked);
    if (!(ssh2.utils.parseKey(pair.private, passphrase) instanceof Error)) return pair;
  }
}
