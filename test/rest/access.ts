/** Who may do what, as the contract's tables have it: the expected status of every request of the matrix. */

import type { SampleOperation } from "../helpers/operations.ts";

export const viewers = ["guest", "stranger", "owner", "admin", "revoked", "expired", "garbage"] as const;
export type Kind = (typeof viewers)[number];
export const verbs = ["list", "get", "post", "patch", "delete"] as const;
export type Verb = (typeof verbs)[number];

/** What has an owner and a `public` switch. */
export const owned = ["datasets", "models", "images", "tasks"];
/** Everyone reads them, admins alone write. */
const adminsOwn = ["tags", "params", "servers"];

/** No token of theirs is good. */
const isRefused = (viewer: Kind) => ["revoked", "expired", "garbage"].includes(viewer);

const success: Record<Verb, number> = { list: 200, get: 200, post: 201, patch: 200, delete: 204 };

export function expectedStatus(resource: string, verb: Verb, viewer: Kind, isPublic: boolean): number {
  if (resource === "params" && (verb === "post" || verb === "delete")) return 405;
  const isLogin = resource === "sessions" && verb === "post";
  if (isLogin) return 201; // looks at no token
  if (isRefused(viewer)) return 401;
  const isSignUp = resource === "users" && verb === "post";
  if (viewer === "guest") {
    if (isSignUp) return 201;
    if ((verb !== "list" && verb !== "get") || resource === "sessions") return 401;
    return verb === "get" && owned.includes(resource) && !isPublic ? 404 : 200;
  }
  if (viewer === "admin" || verb === "list") return success[verb];
  if (verb === "post") return resource === "servers" ? 403 : 201;
  if (adminsOwn.includes(resource)) return verb === "get" ? 200 : 403;
  if (viewer === "owner") return success[verb];
  if (resource === "sessions" || (owned.includes(resource) && !isPublic)) return 404;
  return verb === "get" ? 200 : 403;
}

/** The same of what is beside the resources. */
export function expectedOfOperation({ rule, status }: SampleOperation, viewer: Kind, isPublic: boolean): number {
  if (rule === "any") return status;
  if (isRefused(viewer)) return 401;
  if (rule === "guests") return status;
  if (rule === "read") return isPublic || viewer === "owner" || viewer === "admin" ? status : 404;
  if (viewer === "guest") return 401;
  if (rule === "users") return status;
  if (rule === "admins") return viewer === "admin" ? status : 403;
  if (viewer === "owner") return status;
  if (rule === "own") return 404;
  if (viewer === "admin") return status;
  return isPublic ? 403 : 404;
}
