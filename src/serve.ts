/** The API on a port: the app, the relay and Bun's server put together. */
import { createApp } from "./app.ts";
import { findSessionViewer, type Viewer } from "./auth/viewer.ts";
import type { Booted } from "./boot.ts";
import { createCatalogueSource } from "./params/catalogue.ts";
import { createLiveModels } from "./pool/live-models.ts";
import { listen } from "./relay/changes.ts";
import { createHub } from "./relay/hub.ts";
import { createSocketHandler, type SocketData, upgrade } from "./relay/socket.ts";
import type { Context } from "./rest/define.ts";
import { createLinks } from "./rest/links.ts";
import { temporaryDirectory } from "./storage/index.ts";

/** Above every limit of our own: Bun would answer a larger body with a bare 413. */
const maxRequestBodySize = 64 * 1024 ** 3;
/** Seconds; a handler that writes nothing for longer is cut off, so it must outlast slow uploads. */
const idleTimeout = 120;
/** Below the time after which `up` loses patience. */
const drainMs = 4_000;

export interface Api {
  port: number;
  /** Lets requests end, for some seconds at most; sockets are closed with 1001. */
  stop(): Promise<void>;
}

/** @throws an Error with code EADDRINUSE when the port is taken */
export async function serve(booted: Omit<Booted, "databaseUrl">): Promise<Api> {
  const { config, sql, secrets, storage, log } = booted;
  const links = createLinks(config.publicUrl, secrets);
  const catalogue = createCatalogueSource(sql);
  const listModels = createLiveModels(sql, secrets);
  const app = createApp({
    config,
    sql,
    secrets,
    links,
    storage,
    catalogue,
    log,
    listModels,
    temporaryDirectory: temporaryDirectory(config),
  });
  const hub = createHub({
    log,
    findSession: (sessionId) => findSessionViewer(sql, sessionId),
    contextFor: async (viewer: Viewer): Promise<Context> => ({
      sql,
      viewer,
      catalogue: await catalogue.current(),
      links,
      secrets,
      client: { ip: "", network: "", userAgent: "", origin: links.publicUrl },
      isSignupOpen: config.isSignupOpen,
      listModels,
    }),
  });
  const stopListening = await listen(sql, hub.change, hub.resync);
  const server = Bun.serve<SocketData>({
    hostname: config.host,
    port: config.port,
    maxRequestBodySize,
    idleTimeout,
    websocket: createSocketHandler(hub),
    fetch(request, server) {
      const address = server.requestIP(request)?.address;
      const answer = (asked: Request) => app.fetch(asked, { address });
      return request.headers.get("upgrade")?.toLowerCase() === "websocket"
        ? upgrade(request, server, { answer, sql })
        : answer(request);
    },
  });
  return {
    port: server.port as number,
    async stop() {
      // `stop` waits for ever while a socket is open.
      hub.stop();
      await stopListening();
      await Promise.race([server.stop(), Bun.sleep(drainMs)]);
      await server.stop(true);
    },
  };
}
