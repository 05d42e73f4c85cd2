/** The OpenAPI 3.1 document, made from the definitions and their validators. */
import type { Resource } from "./define.ts";
import { buildDocument, type OpenApiDocument } from "./openapi/document.ts";
import { describeResource } from "./openapi/resource.ts";
import type { Described } from "./openapi/types.ts";

export interface DocumentSources {
  resources: Resource[];
  /** What is not a resource says itself what it is. */
  others: Described[];
  publicUrl: string;
}

export function createDocument({ resources, others, publicUrl }: DocumentSources): OpenApiDocument {
  return buildDocument([...resources.map(describeResource), ...others], publicUrl);
}
