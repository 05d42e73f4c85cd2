/** One attempt to bring a message to its receiver, signed by the Standard Webhooks scheme. */
import { Webhook } from "standardwebhooks";
import { openPinned, RemoteError, withLimit } from "../remote/request.ts";
import type { WebhookGuard } from "./guard.ts";

export interface Message {
  /** The same at every attempt: receivers know by it what they have had already. */
  id: string;
  url: string;
  /** JSON, sent as it is. */
  body: string;
}

export interface Outcome {
  kind: "delivered" | "failed" | "refused";
  /** Null when there was no answer. */
  statusCode: number | null;
  /** For the log that the task's owner reads; null when it was delivered. */
  error: string | null;
}

const timeoutMs = 10_000;

/**
 * Posts to an address that is checked now. Any 2xx is a success; redirects are not followed; the answer's body is not
 * read. `refused` is what another attempt would not change: the address may not be called, or the receiver is gone.
 *
 * @param secrets a signature for each, so that a receiver may know any of them
 * @param signal ends the attempt early, as if it had taken too long
 */
export async function send(
  message: Message,
  secrets: string[],
  guard: Pick<WebhookGuard, "addressesOf">,
  signal: AbortSignal,
): Promise<Outcome> {
  const limit = AbortSignal.any([AbortSignal.timeout(timeoutMs), signal]);
  const sentAt = new Date();
  const signatures = secrets.map((secret) => new Webhook(secret).sign(message.id, sentAt, message.body));
  try {
    const url = new URL(message.url);
    const addresses = await withLimit(guard.addressesOf(url), limit);
    const { request, response } = await openPinned(url, addresses, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        "Content-Length": String(Buffer.byteLength(message.body)),
        "webhook-id": message.id,
        "webhook-timestamp": String(Math.floor(sentAt.getTime() / 1000)),
        "webhook-signature": signatures.join(" "),
      },
      body: message.body,
      signal: limit,
    });
    request.destroy();
    return judge(response.statusCode ?? 0);
  } catch (error) {
    if (!(error instanceof RemoteError)) throw error;
    const kind = error.reason === "forbidden-address" ? "refused" : "failed";
    return { kind, statusCode: null, error: error.message };
  }
}

function judge(statusCode: number): Outcome {
  if (statusCode >= 200 && statusCode < 300) return { kind: "delivered", statusCode, error: null };
  if (statusCode === 410) return { kind: "refused", statusCode, error: "The receiver is gone (410)." };
  const redirect = statusCode >= 300 && statusCode < 400 ? " Redirects are not followed." : "";
  return { kind: "failed", statusCode, error: `The receiver answered ${statusCode}.${redirect}` };
}
