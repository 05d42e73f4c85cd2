/** Numbers of the list rules that the parser, the document and the client share. */

export const maxPage = 1_000_000_000;
export const maxPageSize = 200;
export const defaultPageSize = 20;
/** Values of one filter in one request, unions and intersections together. */
export const maxValues = 200;
/** Objects of one bulk. */
export const maxBulk = 1000;
/** Ids are PostgreSQL `int`s. */
export const maxId = 2_147_483_647;
