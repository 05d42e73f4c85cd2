/** The Content-Disposition of a download, for our own answers and for the store's signed URLs. */

/**
 * `attachment` under a file name in any script: RFC 6266, with an ASCII stand-in for old clients and the true name
 * percent-encoded after RFC 8187. Header injection is impossible: only printable ASCII comes out.
 */
export function contentDisposition(fileName: string): string {
  const plain = fileName.replaceAll(/[^\x20-\x7e]|["\\%/]/g, "_");
  const encoded = encodeURIComponent(fileName.toWellFormed()).replaceAll(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `attachment; filename="${plain}"; filename*=UTF-8''${encoded}`;
}
