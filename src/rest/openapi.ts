/** The OpenAPI 3.1 document, made from the definitions, their validators and what the app really serves. */
import type { RouterRoute } from "hono/types";
import type { Resource } from "./define.ts";
import { buildDocument, type OpenApiDocument } from "./openapi/document.ts";
import { describeResource } from "./openapi/resource.ts";
import type { Described } from "./openapi/types.ts";

export interface DocumentSources {
  resources: Resource[];
  /** What is not a resource says itself what it is. */
  others: Described[];
  /** Of the app, all of them: what several writes at once can be sent to is read from here. */
  routes: RouterRoute[];
  publicUrl: string;
}

export function createDocument({ resources, others, routes, publicUrl }: DocumentSources): OpenApiDocument {
  const served = new Set(servedRoutes(routes));
  const parts = resources.map((resource) =>
    describeResource(resource, { isBulk: served.has(`PATCH /api/${resource.name}`) }),
  );
  return buildDocument([...parts, ...others], publicUrl);
}

/** `METHOD /path/{id}` of every route that answers one method; the rest is middleware and refusals. */
export function servedRoutes(routes: RouterRoute[]): string[] {
  const served = routes
    .filter(({ method }) => method !== "ALL")
    .map(({ method, path }) => `${method} ${path.replace(/(.)\/$/, "$1").replaceAll(/:(\w+)/g, "{$1}")}`);
  return [...new Set(served)];
}
