/** The parts of an OpenAPI 3.1 document that we write. */

/** JSON Schema 2020-12. */
export type JsonSchema = { [keyword: string]: unknown };

export interface Parameter {
  name: string;
  in: "query" | "path" | "header";
  description: string;
  required?: boolean;
  schema: JsonSchema;
  style?: "form" | "simple";
  explode?: boolean;
  example?: unknown;
}

export interface MediaType {
  schema: JsonSchema;
  example?: unknown;
  examples?: Record<string, unknown>;
}

export interface Answer {
  description: string;
  headers?: Record<string, unknown>;
  content?: Record<string, MediaType>;
}

export interface Operation {
  operationId: string;
  summary: string;
  description?: string;
  tags: string[];
  security: Record<string, string[]>[];
  parameters: (Parameter | { $ref: string })[];
  requestBody?: { required: boolean; description?: string; content: Record<string, MediaType> };
  responses: Record<string, Answer>;
  [extension: `x-${string}`]: unknown;
}

/** What one part of the API says of itself: operations by `METHOD /path/{id}`, and the schemas that they refer to. */
export interface Described {
  tag: { name: string; description: string };
  operations: Record<string, Operation>;
  schemas: Record<string, JsonSchema>;
}

export const ref = (schema: string): JsonSchema => ({ $ref: `#/components/schemas/${schema}` });
