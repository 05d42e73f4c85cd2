/**
 * A double of an S3 store, in this process and in memory: path style, single and multipart uploads, copies, ranges,
 * conditions. It proves what we send, not what a real store makes of it: signatures must be present, but their value
 * is not computed again. Faults are set by the test.
 */
import { createHash, randomUUID } from "node:crypto";

interface FakeObject {
  bytes: Uint8Array;
  contentType: string;
  etag: string;
  storedAt: Date;
}

export interface FakeS3 {
  /** What `createS3Storage` takes. */
  options: { endpoint: string; bucket: string; region: string; accessKeyId: string; secretAccessKey: string };
  objects: Map<string, FakeObject>;
  /** Uploads in parts that were neither completed nor aborted. */
  uploads: Map<string, { parts: Map<number, Uint8Array>; contentType: string }>;
  /** Method, path and what else matters of every request, in order. */
  requests: { method: string; path: string; headers: Headers }[];
  /** Asked before each request; what it returns is the answer. */
  intercept: (request: Request) => Response | null | Promise<Response | null>;
  /** What becomes of a body on its way here. */
  carry: (bytes: Uint8Array) => Uint8Array;
  stop(): Promise<void>;
}

export function startFakeS3(bucket = "atelier"): FakeS3 {
  const objects: FakeS3["objects"] = new Map();
  const uploads: FakeS3["uploads"] = new Map();
  const requests: FakeS3["requests"] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const url = new URL(request.url);
      requests.push({ method: request.method, path: url.pathname + url.search, headers: request.headers });
      const fault = await fake.intercept(request);
      if (fault) return fault;
      if (!isSigned(request, url)) return failure(403, "AccessDenied");
      const [, name, ...rest] = url.pathname.split("/");
      if (name !== bucket) return failure(404, "NoSuchBucket");
      if (url.searchParams.get("list-type") === "2") return list(url.searchParams);
      return answer(request, url.searchParams, decodeURIComponent(rest.join("/")));
    },
  });

  async function answer(request: Request, query: URLSearchParams, key: string): Promise<Response> {
    const uploadId = query.get("uploadId");
    if (request.method === "POST" && query.has("uploads")) return begin(request);
    if (request.method === "POST" && uploadId) return complete(uploadId, key, await request.text());
    if (request.method === "DELETE" && uploadId) return noContent(uploads.delete(uploadId));
    if (request.method === "DELETE") return noContent(objects.delete(key));
    if (request.method === "GET" || request.method === "HEAD") return read(request, query, key);
    if (request.method !== "PUT") return failure(405, "MethodNotAllowed");

    const bytes = await readBody(request);
    if (bytes instanceof Response) return bytes;
    if (uploadId) {
      uploads.get(uploadId)?.parts.set(Number(query.get("partNumber")), bytes);
      return stored(request, bytes);
    }
    if (request.headers.get("if-none-match") === "*" && objects.has(key)) return failure(412, "PreconditionFailed");
    const contentType = request.headers.get("content-type") ?? "";
    objects.set(key, { bytes, contentType, etag: etagOf(bytes), storedAt: new Date() });
    return stored(request, bytes);
  }

  /** The body as sent, or the (part of the) object it is to be copied from. */
  async function readBody(request: Request): Promise<Uint8Array | Response> {
    const source = request.headers.get("x-amz-copy-source");
    if (source !== null && new URL(request.url).pathname === `/${source}`) return failure(400, "InvalidRequest");
    if (source === null) {
      if (!request.headers.has("content-length")) return failure(411, "MissingContentLength");
      if (request.headers.get("content-encoding") === "aws-chunked") return failure(501, "NotImplemented");
      const bytes = fake.carry(await request.bytes());
      const digests = { sha256: request.headers.get("x-amz-checksum-sha256"), md5: request.headers.get("content-md5") };
      const isWhole = Object.entries(digests).every(
        ([name, digest]) => !digest || createHash(name).update(bytes).digest("base64") === digest,
      );
      return isWhole ? bytes : failure(400, "BadDigest");
    }
    const from = objects.get(decodeURIComponent(source).replace(`${bucket}/`, ""));
    if (!from) return failure(404, "NoSuchKey");
    const range = parseRange(request.headers.get("x-amz-copy-source-range"), from.bytes.length);
    return range ? from.bytes.slice(range.start, range.end + 1) : from.bytes;
  }

  /** In pages of three, so that a reader must ask for more. */
  function list(query: URLSearchParams): Response {
    const after = query.get("continuation-token") ?? "";
    const keys = [...objects.keys()].sort().filter((key) => key > after);
    const page = keys.slice(0, 3);
    const contents = page.map((key) => {
      const { bytes, storedAt } = objects.get(key) as FakeObject;
      return `<Contents><Key>${key}</Key><Size>${bytes.length}</Size><LastModified>${storedAt.toISOString()}</LastModified></Contents>`;
    });
    const next = page.length < keys.length ? `<NextContinuationToken>${page.at(-1)}</NextContinuationToken>` : "";
    return xml(
      `<ListBucketResult><IsTruncated>${next !== ""}</IsTruncated>${next}${contents.join("")}</ListBucketResult>`,
    );
  }

  function begin(request: Request): Response {
    const uploadId = randomUUID();
    uploads.set(uploadId, { parts: new Map(), contentType: request.headers.get("content-type") ?? "" });
    return xml(`<InitiateMultipartUploadResult><UploadId>${uploadId}</UploadId></InitiateMultipartUploadResult>`);
  }

  function complete(uploadId: string, key: string, body: string): Response {
    const upload = uploads.get(uploadId);
    if (!upload) return failure(404, "NoSuchUpload");
    const parts = [...body.matchAll(/<PartNumber>(\d+)<\/PartNumber>/g)].map(([, n]) => upload.parts.get(Number(n)));
    const etags = [...body.matchAll(/<ETag>(.*?)<\/ETag>/g)].map(([, etag]) => etag?.replaceAll("&quot;", '"'));
    if (parts.some((part, index) => !part || etagOf(part) !== etags[index])) return failure(400, "InvalidPart");
    const bytes = new Uint8Array(Buffer.concat(parts.filter((part) => part !== undefined)));
    objects.set(key, { bytes, contentType: upload.contentType, etag: etagOf(bytes), storedAt: new Date() });
    uploads.delete(uploadId);
    return xml(`<CompleteMultipartUploadResult><Key>${key}</Key></CompleteMultipartUploadResult>`);
  }

  function read(request: Request, query: URLSearchParams, key: string): Response {
    const object = objects.get(key);
    if (!object) return failure(404, "NoSuchKey");
    const condition = request.headers.get("if-match");
    if (condition && condition !== object.etag) return failure(412, "PreconditionFailed");
    const headers = new Headers({
      "content-type": query.get("response-content-type") ?? object.contentType,
      "content-length": String(object.bytes.length),
      etag: object.etag,
    });
    const disposition = query.get("response-content-disposition");
    if (disposition) headers.set("content-disposition", disposition);
    if (request.method === "HEAD") return new Response(null, { headers });
    const range = parseRange(request.headers.get("range"), object.bytes.length);
    if (!range) return new Response(object.bytes.slice(), { headers });
    if (range.start >= object.bytes.length) return failure(416, "InvalidRange");
    const part = object.bytes.slice(range.start, range.end + 1);
    headers.set("content-length", String(part.length));
    return new Response(part, { status: 206, headers });
  }

  const fake: FakeS3 = {
    options: {
      endpoint: `http://127.0.0.1:${server.port}`,
      bucket,
      region: "us-east-1",
      accessKeyId: "key-id",
      secretAccessKey: "secret",
    },
    objects,
    uploads,
    requests,
    intercept: () => null,
    carry: (bytes) => bytes,
    stop: () => server.stop(true),
  };
  return fake;
}

export function failure(status: number, code: string): Response {
  return xml(`<Error><Code>${code}</Code><Message>${code}</Message></Error>`, status);
}

function isSigned(request: Request, url: URL): boolean {
  const header = request.headers.get("authorization") ?? "";
  if (/^AWS4-HMAC-SHA256 Credential=key-id\/\d{8}\/us-east-1\/s3\/aws4_request,/.test(header)) return true;
  const [date, signature] = [url.searchParams.get("X-Amz-Date"), url.searchParams.get("X-Amz-Signature")];
  if (!date || !signature) return false;
  const iso = date.replace(/^(....)(..)(..)T(..)(..)(..)Z$/, "$1-$2-$3T$4:$5:$6Z");
  if (Date.parse(iso) + Number(url.searchParams.get("X-Amz-Expires")) * 1000 < Date.now()) return false;
  const names = url.searchParams.get("X-Amz-SignedHeaders")?.split(";") ?? [];
  return names.every((name) => request.headers.has(name));
}

function parseRange(header: string | null, size: number): { start: number; end: number } | null {
  const match = /^bytes=(\d+)-(\d+)$/.exec(header ?? "");
  return match ? { start: Number(match[1]), end: Math.min(Number(match[2]), size - 1) } : null;
}

/** A copy is answered in XML, an upload in a header. */
function stored(request: Request, bytes: Uint8Array): Response {
  const etag = etagOf(bytes);
  if (!request.headers.has("x-amz-copy-source")) return new Response(null, { headers: { etag } });
  const name = new URL(request.url).searchParams.has("uploadId") ? "CopyPartResult" : "CopyObjectResult";
  return xml(`<${name}><ETag>${etag}</ETag></${name}>`);
}

function etagOf(bytes: Uint8Array): string {
  return `"${createHash("md5").update(bytes).digest("hex")}"`;
}

function noContent(_: unknown): Response {
  return new Response(null, { status: 204 });
}

function xml(text: string, status = 200): Response {
  return new Response(`<?xml version="1.0"?>${text}`, { status, headers: { "content-type": "application/xml" } });
}
