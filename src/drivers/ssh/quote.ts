/** One word for a POSIX shell, whatever the text holds. @throws TypeError for NUL, which no command line can carry */
export function quote(text: string): string {
  if (text.includes("\0")) throw new TypeError("a word for a shell cannot hold NUL");
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
