/** `dispatch`: gives waiting tasks to free servers. One job key, so bursts collapse. May run twice at once. */
import { dispatch } from "../src/pool/dispatch.ts";
import type { JobDeps } from "./handler.ts";

export function createDispatch({ sql, log }: JobDeps) {
  return async (): Promise<void> => {
    const leased = await dispatch(sql);
    if (leased > 0) log.debug({ leased }, "tasks dispatched");
  };
}
