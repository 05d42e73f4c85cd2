/**
 * The demo engine: a CPU program that speaks the part of ComfyUI's HTTP and WebSocket API that a driver uses, for
 * `up`, tests and trying things out. It trains and draws something of its own and says everywhere that it is a demo.
 */
import { Executor } from "./execution.ts";
import { type FaultOptions, Faults } from "./faults.ts";
import { EngineFiles } from "./files.ts";
import type { NodeClass, NodeClasses } from "./nodes.ts";
import { datasetNodesA, datasetNodesC } from "./nodes-dataset.ts";
import { pictureNodes } from "./nodes-picture.ts";
import { trainingNodesA, trainingNodesC } from "./nodes-training.ts";
import { PromptQueue } from "./queue.ts";
import { createRoutes } from "./routes.ts";
import { SocketHub } from "./socket.ts";

export interface DemoEngineOptions {
  /** 0 takes any free port. */
  port: number;
  /** Default 127.0.0.1. */
  host?: string;
  /** Its base directory: input/, output/, temp/ and models/ are made in it, and found again after a restart. */
  directory: string;
  /** With both, Basic auth is asked of every request. */
  username?: string;
  password?: string;
  /** Least time of a step of training or sampling. Default 40: a training of 100 steps takes four seconds. */
  stepMs?: number;
  /** Which generation of ComfyUI's training nodes to offer: A is 0.3.64 (default), C is 2026. */
  trainingNodes?: "A" | "C";
  /** Largest request body; default 100 MiB, as ComfyUI's. */
  maxUploadBytes?: number;
  /** Give valid results in no time: one colour for a picture, one step of work for a training. All steps are told. */
  instant?: boolean;
  /** Let faults be asked for, see faults.ts. Off by default: whoever reaches the engine can then make it fail. */
  faults?: FaultOptions;
  /** Do not tell on stderr where it listens. */
  quiet?: boolean;
}

export interface DemoEngine {
  url: string;
  port: number;
  /** Null when they were not switched on. */
  faults: Faults | null;
  /** Interrupts what runs, drops all connections and frees the port. May be called twice. */
  stop(): Promise<void>;
}

interface SocketData {
  /** As the client gave it; replaced on opening by the one that counts. */
  clientId: string;
}

const generations = {
  A: { nodes: { ...datasetNodesA, ...trainingNodesA }, version: "0.3.64-demo", unknownNodeType: "invalid_prompt" },
  C: { nodes: { ...datasetNodesC, ...trainingNodesC }, version: "0.38.0-demo", unknownNodeType: "missing_node_type" },
} as const;

/** Starts an engine and resolves once it listens. Queue and history begin empty. */
export async function startDemoEngine(options: DemoEngineOptions): Promise<DemoEngine> {
  const files = new EngineFiles(options.directory);
  let isStopped = false;
  let rebirth: ReturnType<typeof setTimeout> | undefined;
  const faults = options.faults
    ? new Faults(options.faults, options.directory, (ms) => {
        void life.end();
        rebirth = setTimeout(() => {
          if (!isStopped) life = live(options, files, faults, port);
        }, ms);
      })
    : null;
  let life = live(options, files, faults, options.port);
  const { port } = life;
  const url = `http://${options.host ?? "127.0.0.1"}:${port}`;
  if (!options.quiet) console.error(`demo engine: ${url}, files in ${options.directory}`);
  return {
    url,
    port,
    faults,
    stop: async () => {
      isStopped = true;
      clearTimeout(rebirth);
      await life.end();
    },
  };
}

/** The engine until it is stopped or dies: all but its files begins anew with the next one. */
function live(options: DemoEngineOptions, files: EngineFiles, faults: Faults | null, wantedPort: number) {
  const generation = generations[options.trainingNodes ?? "A"];
  const maxUploadBytes = options.maxUploadBytes ?? 100 * 1024 * 1024;
  const features = { supports_preview_metadata: true, max_upload_size: maxUploadBytes };
  const classes: NodeClasses = new Map<string, NodeClass>(Object.entries({ ...pictureNodes, ...generation.nodes }));
  const hub = new SocketHub(features);
  const status = () => ({ exec_info: { queue_remaining: queue.remaining } });
  const queue = new PromptQueue(() => hub.send("status", { status: status() }, null));
  const { stepMs = 40, instant: isInstant = false } = options;
  const executor = new Executor({ classes, files, hub, queue, stepMs, isInstant, faults });
  const { username, password } = options;
  const app = createRoutes({
    classes,
    files,
    queue,
    executor,
    validation: { classes, files, unknownNodeType: generation.unknownNodeType },
    version: generation.version,
    features,
    maxUploadBytes,
    login: username === undefined ? null : { username, password: password ?? "" },
    faults,
    dropSockets: () => hub.closeAll(),
    upgrade: (request, clientId) =>
      // Bun answers the upgrade itself; the response is only there to say that it did.
      server.upgrade(request, { data: { clientId } }) ? new Response(null) : null,
  });

  const server = Bun.serve<SocketData>({
    port: wantedPort,
    hostname: options.host ?? "127.0.0.1",
    // The limit proper is the routes' own, whose 413 also reaches clients that are still sending.
    maxRequestBodySize: maxUploadBytes * 2 + 1024 * 1024,
    // A view of a large file by a slow reader must not be cut off.
    idleTimeout: 0,
    fetch: (request) => app.fetch(request),
    websocket: {
      idleTimeout: 0,
      sendPings: false,
      open: (socket) => {
        const clientId = hub.open(socket.data.clientId, socket);
        socket.data.clientId = clientId;
        hub.send("status", { status: status(), sid: clientId }, clientId);
        const node = executor.runningNode(clientId);
        // Here without a prompt_id, as ComfyUI does it.
        if (node !== null) hub.send("executing", { node }, clientId);
      },
      message: (socket, message) => hub.receive(socket.data.clientId, socket, String(message)),
      close: (socket) => hub.close(socket.data.clientId),
    },
  });

  const stopping = new AbortController();
  const working = executor.work(stopping.signal);
  return {
    port: server.port ?? wantedPort,
    async end(): Promise<void> {
      stopping.abort();
      hub.closeAll();
      await server.stop(true);
      await working;
    },
  };
}
