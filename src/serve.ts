/** The API on a port: the app, the relay and the runtime's server put together. */
import { createApp } from "./app.ts";
import { createAddressReader } from "./auth/address.ts";
import { findSessions, type Viewer } from "./auth/viewer.ts";
import type { Booted } from "./boot.ts";
import { createCatalogueSource } from "./params/catalogue.ts";
import { createLiveModels } from "./pool/live-models.ts";
import { createOutlook } from "./pool/outlook.ts";
import type { RelayDeps } from "./relay/admission.ts";
import { followChanges } from "./relay/changes.ts";
import { streamEvents, wantsEvents } from "./relay/events.ts";
import { createHub } from "./relay/hub.ts";
import { createPlaces } from "./relay/places.ts";
import { upgrade } from "./relay/socket.ts";
import type { Context } from "./rest/define.ts";
import { createLinks } from "./rest/links.ts";
import { listen } from "./runtime/index.ts";
import { temporaryDirectory } from "./storage/index.ts";
import { createWebhookGuard } from "./webhooks/guard.ts";

/** Below the time after which `up` loses patience. */
const drainMs = 4_000;

export interface Api {
  port: number;
  /** Lets requests end, for some seconds at most; sockets are closed with 1001. */
  stop(): Promise<void>;
}

/** @throws an Error with code EADDRINUSE when the port is taken */
export async function serve(booted: Booted): Promise<Api> {
  const { config, databaseUrl, sql, secrets, storage, log } = booted;
  const links = createLinks(config.publicUrl, secrets);
  const catalogue = createCatalogueSource(sql);
  const listModels = createLiveModels(secrets);
  const webhooks = createWebhookGuard(config.webhookNetworks);
  const outlook = createOutlook(sql, config.maxRunningPerUser);
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
  const contextFor = async (viewer: Viewer): Promise<Context> => ({
    sql,
    viewer,
    catalogue: await catalogue.current(),
    links,
    secrets,
    client: { ip: "", userAgent: "", origin: links.publicUrl },
    isSignupOpen: config.isSignupOpen,
    webhooks,
    outlook,
    maxWaiting: config.maxWaitingPerUser,
    listModels,
  });
  const hub = createHub({ log, contextFor, findSessions: (ids) => findSessions(sql, ids) });
  const stopFollowing = await followChanges({
    databaseUrl,
    sql,
    log,
    onChanges: hub.change,
    onGap: hub.resync,
  });
  const relay: RelayDeps = {
    answer: (request, address) => app.fetch(request, { address }),
    sql,
    hub,
    places: createPlaces(config.socketLimits),
    readAddress: createAddressReader(config.trustedProxies),
    contextFor,
  };
  const server = listen({
    hostname: config.host,
    port: config.port,
    fetch: (request, address) =>
      wantsEvents(request) ? streamEvents(request, address, relay) : app.fetch(request, { address }),
    upgrade: (request, address) => upgrade(request, address, relay),
  });
  return {
    port: server.port,
    async stop() {
      hub.stop();
      await stopFollowing();
      await server.stop(drainMs);
    },
  };
}
