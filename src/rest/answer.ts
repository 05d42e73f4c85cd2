/** An answer as data, so that a write's can be stored and given again. */
export interface Answer {
  status: 200 | 201 | 202 | 204;
  headers: Record<string, string>;
  /** JSON as it is sent: a repeated answer has the same bytes. Empty with 204. */
  body: string;
}

export function toResponse({ status, headers, body }: Answer): Response {
  if (status === 204) return new Response(null, { status, headers });
  return new Response(body, { status, headers: { ...headers, "Content-Type": "application/json" } });
}
