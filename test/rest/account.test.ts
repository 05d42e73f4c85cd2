/** The caller's account answers the same object whether it is read or changed. */
import { expect, test } from "bun:test";
import { startApp } from "../helpers/app.ts";

const app = await startApp();

test("a caller changes its own name and reads the account back", async () => {
  const { token, id, email, sessionId } = await app.signUp();
  const patched = await app.call("PATCH", "/api/account", { token, body: { name: "布穀鳥" } });
  expect(patched.status).toBe(200);
  expect(patched.body).toMatchObject({ id, name: "布穀鳥", email, admin: false, session_id: sessionId });
  expect((await app.call("GET", "/api/account", { token })).body).toEqual(patched.body);
});
