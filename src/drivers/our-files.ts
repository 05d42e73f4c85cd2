/** The names of files that we have put on an engine, or that our runs have left there. */

const uuid = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}";
/** In a folder of ours or of a run, or named by the content's hash or by the run that made it. Sub-folders may come with `\\`. */
const ours = new RegExp(
  `(?:^|[\\\\/])(?:(?:atelier|${uuid})[\\\\/]|(?:[0-9a-f]{64}|atelier-(?:${uuid}|refresh))(?:\\.\\w+)?$)`,
);

/** Whoever knows such a name may be able to apply the file, and it may be anybody's: they are never shown. */
export const isOurFile = (name: string): boolean => ours.test(name);
