/** POSTs that do something to what is there instead of creating: no body, no parameters, and a key as everywhere. */
import type { Context as HonoContext } from "hono";
import type { Answer } from "./answer.ts";
import { refuseBody } from "./body.ts";
import type { Context } from "./define.ts";
import { type Env, refuseQuery } from "./http.ts";
import { answerOnce } from "./idempotency.ts";
import { transaction } from "./write.ts";

/** @param work runs in a transaction, once for each Idempotency-Key */
export async function act(c: HonoContext<Env>, work: (inside: Context) => Promise<Answer>): Promise<Response> {
  await refuseBody(c.req.raw);
  refuseQuery(c.req.url);
  return answerOnce(
    c,
    () => "",
    (once) =>
      transaction(c.get("context"), async (inside) => {
        await once.claim(inside.sql);
        const answer = await work(inside);
        await once.keep(inside.sql, answer);
        return answer;
      }),
  );
}
