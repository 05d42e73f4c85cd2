/** Runs prompts, one after the other, and tells about it in ComfyUI's events and order. */
import { createHash } from "node:crypto";
import type { Faults } from "./faults.ts";
import type { EngineFiles } from "./files.ts";
import { type Graph, type GraphNode, isLink } from "./graph.ts";
import type { NodeClass, NodeClasses, NodeResult } from "./nodes.ts";
import { waitUntil } from "./pace.ts";
import { encodePreview } from "./picture.ts";
import { Plan } from "./plan.ts";
import { InterruptError, PythonError } from "./python.ts";
import type { Outcome, PromptQueue, QueueItem } from "./queue.ts";
import type { SocketHub } from "./socket.ts";
import { NodeInputs, type Value } from "./values.ts";

/** Saved in a picture's or a model's place when the fault of that name was asked for. */
const wrongFile = new TextEncoder().encode("neither a picture nor a model");

/** How a node stands, as `progress_state` shows it. */
interface NodeProgress {
  state: "running" | "finished" | "error";
  value: number;
  max: number;
}

export interface ExecutorOptions {
  classes: NodeClasses;
  files: EngineFiles;
  hub: SocketHub;
  queue: PromptQueue;
  /** Least time that a step of training or sampling takes, so that somebody can watch it. */
  stepMs: number;
  isInstant: boolean;
  faults: Faults | null;
}

export class Executor {
  /** Results of the last prompt's nodes by signature: an equal node of the next prompt does not run again. */
  private cache = new Map<string, NodeResult>();
  private isInterrupted = false;
  private current: Run | null = null;

  constructor(readonly options: ExecutorOptions) {}

  /** Executes what comes until `signal` is aborted; a running prompt is interrupted then. */
  async work(signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => this.interrupt(null), { once: true });
    const { queue, hub, faults } = this.options;
    for (let item = await queue.take(signal); item !== null; item = await queue.take(signal)) {
      const run = new Run(item, this);
      this.current = run;
      this.isInterrupted = signal.aborted;
      faults?.begin(item);
      if (faults?.has(item.promptId, "duplicate")) hub.doubled.add(item.promptId);
      const { outcome, cache } = await run.execute(this.cache);
      faults?.end(item.promptId, outcome.isSuccess);
      // With faults, every step of every prompt is really taken: one may have been asked for there.
      this.cache = faults ? new Map() : cache;
      this.current = null;
      // The history first: whoever hears that the prompt is over must find it there.
      queue.finish(item, outcome);
      if (run.clientId !== null) hub.send("executing", { node: null, prompt_id: item.promptId }, run.clientId);
      hub.doubled.delete(item.promptId);
    }
  }

  /** Interrupts what runs at its next step: whichever it is with null, else only that prompt. */
  interrupt(promptId: string | null): void {
    if (promptId === null || promptId === this.options.queue.runningId) this.isInterrupted = true;
  }

  /** @throws InterruptError once for each interrupt */
  checkInterrupt(): void {
    if (!this.isInterrupted) return;
    this.isInterrupted = false;
    throw new InterruptError();
  }

  /** The node that runs for this client, which it is told on connecting; null when none does. */
  runningNode(clientId: string): string | null {
    return this.current?.clientId === clientId ? this.current.node : null;
  }

  /** Forgets cached results, from the next prompt on. */
  free(): void {
    this.cache = new Map();
  }
}

/** One execution of one prompt. */
class Run {
  readonly clientId: string | null;
  /** The node that runs at present. */
  node: string | null = null;
  private readonly graph: Graph;
  private readonly promptId: string;
  private readonly messages: Outcome["messages"] = [];
  private readonly progress = new Map<string, NodeProgress>();
  private readonly results = new Map<string, NodeResult>();
  private readonly executed: string[] = [];

  constructor(
    private readonly item: QueueItem,
    private readonly executor: Executor,
  ) {
    this.graph = item.prompt;
    this.promptId = item.promptId;
    const clientId = item.extraData.client_id;
    this.clientId = typeof clientId === "string" ? clientId : null;
  }

  async execute(cache: ReadonlyMap<string, NodeResult>) {
    this.announce("execution_start", {});
    const signatures = await this.signatures();
    const cached = Object.keys(this.graph).filter((id) => cache.has(signatures.get(id) ?? ""));
    this.announce("execution_cached", { nodes: cached });
    const isSuccess = await this.executeAll((id) => cache.get(signatures.get(id) ?? "") ?? null);
    if (isSuccess) this.announce("execution_success", {});
    // Only this prompt's results are kept, and those of its nodes that were not needed again this time.
    const kept = new Map<string, NodeResult>();
    for (const [id, signature] of signatures) {
      const result = this.results.get(id) ?? cache.get(signature);
      if (result !== undefined) kept.set(signature, result);
    }
    const outcome: Outcome = { isSuccess, outputs: {}, meta: {}, messages: this.messages };
    for (const [id, { ui }] of this.results) {
      if (ui === undefined) continue;
      outcome.outputs[id] = ui;
      outcome.meta[id] = { node_id: id, display_node: id, parent_node: null, real_node_id: id };
    }
    return { outcome, cache: kept };
  }

  /** Runs nodes until all outputs are there; false when one failed or was interrupted. */
  private async executeAll(findCached: (id: string) => NodeResult | null): Promise<boolean> {
    const plan = new Plan(
      this.graph,
      this.item.outputs,
      this.executor.options.classes,
      (id) => findCached(id) !== null,
    );
    for (let id = plan.next(); id !== null; id = plan.next()) {
      const { node, nodeClass } = this.find(id);
      const cached = findCached(id);
      if (cached !== null) {
        this.results.set(id, cached);
        this.tell("executed", { node: id, display_node: id, output: cached.ui ?? null });
        this.report(id, { state: "finished", value: 1, max: 1 });
        continue;
      }
      const inputs = this.gather(node, findCached);
      try {
        await this.executeNode(id, nodeClass, inputs);
      } catch (error) {
        this.fail(id, node, inputs, error);
        return false;
      }
    }
    return true;
  }

  private async executeNode(id: string, nodeClass: NodeClass, inputs: NodeInputs): Promise<void> {
    this.report(id, { state: "running", value: 0, max: 1 });
    this.node = id;
    this.tell("executing", { node: id, display_node: id });
    this.executor.checkInterrupt();
    const { files, stepMs, isInstant, faults } = this.executor.options;
    const checkInterrupt = () => this.executor.checkInterrupt();
    if (this.executed.length === 0) await faults?.atStep(this.promptId, 0, checkInterrupt);
    let startedAt = performance.now();
    const result = await nodeClass.run(inputs, {
      files,
      isInstant,
      saved: (bytes) => (faults?.has(this.promptId, "wrong-file") ? wrongFile : bytes),
      step: async (value, max, preview) => {
        // The time first and the check after it: an interrupt is heeded at the end of the step it came in.
        await waitUntil(startedAt, stepMs);
        startedAt = performance.now();
        checkInterrupt();
        await faults?.atStep(this.promptId, value, checkInterrupt);
        await this.tick(id, value, max, preview);
      },
    });
    this.results.set(id, result);
    if (result.ui !== undefined) this.tell("executed", { node: id, display_node: id, output: result.ui });
    const last = this.progress.get(id);
    this.report(id, { state: "finished", value: last?.max ?? 1, max: last?.max ?? 1 });
    this.executed.push(id);
  }

  private async tick(
    id: string,
    value: number,
    max: number,
    preview?: () => { picture: Parameters<typeof encodePreview>[0]; width: number; height: number },
  ): Promise<void> {
    const { hub } = this.executor.options;
    this.report(id, { state: "running", value, max });
    hub.send("progress", { value, max, prompt_id: this.promptId, node: id }, this.clientId);
    if (preview === undefined || this.item.extraData.preview_method === "none") return;
    if (!hub.isListening(this.clientId)) return;
    const { picture, width, height } = preview();
    const jpeg = await encodePreview(picture, width, height);
    const place = { node_id: id, display_node_id: id, real_node_id: id, parent_node_id: null };
    hub.sendPreview(jpeg, { ...place, prompt_id: this.promptId }, this.clientId);
  }

  private gather(node: GraphNode, findCached: (id: string) => NodeResult | null): NodeInputs {
    const literals = new Map<string, unknown>();
    const links = new Map<string, Value>();
    for (const [name, given] of Object.entries(node.inputs)) {
      if (!isLink(given)) {
        literals.set(name, given);
        continue;
      }
      const value = (this.results.get(given[0]) ?? findCached(given[0]))?.outputs[given[1]];
      if (value !== undefined) links.set(name, value);
    }
    return new NodeInputs(literals, links);
  }

  private fail(id: string, node: GraphNode, inputs: NodeInputs, error: unknown): void {
    const place = { node_id: id, node_type: node.class_type, executed: this.executed };
    if (error instanceof InterruptError) {
      // The one event of a prompt without a client that is sent, to everybody.
      this.announce("execution_interrupted", place, true);
      return;
    }
    const type = error instanceof PythonError ? error.type : "RuntimeError";
    const message = error instanceof Error ? error.message : String(error);
    this.report(id, { state: "error", value: 0, max: 1 });
    this.announce("execution_error", {
      ...place,
      exception_message: `${message}\n`,
      exception_type: type,
      traceback: [`  in ${node.class_type}\n`],
      current_inputs: inputs.describe(),
      current_outputs: [...this.results.keys()],
    });
  }

  /** Sends an event of the life cycle and keeps it for the history. */
  private announce(event: string, data: Record<string, unknown>, isBroadcast = false): void {
    const full = { prompt_id: this.promptId, ...data, timestamp: Date.now() };
    this.messages.push([event, full]);
    if (this.clientId !== null || isBroadcast) this.executor.options.hub.send(event, full, this.clientId);
  }

  /** Sends an event to the owner, if there is one. */
  private tell(event: string, data: Record<string, unknown>): void {
    if (this.clientId === null) return;
    this.executor.options.hub.send(event, { ...data, prompt_id: this.promptId }, this.clientId);
  }

  private report(id: string, progress: NodeProgress): void {
    this.progress.set(id, progress);
    const nodes = Object.fromEntries(
      [...this.progress].map(([node, { value, max, state }]) => [
        node,
        {
          value,
          max,
          state,
          node_id: node,
          prompt_id: this.promptId,
          display_node_id: node,
          parent_node_id: null,
          real_node_id: node,
        },
      ]),
    );
    this.executor.options.hub.send("progress_state", { prompt_id: this.promptId, nodes }, this.clientId);
  }

  private find(id: string): { node: GraphNode; nodeClass: NodeClass } {
    const node = this.graph[id];
    const nodeClass = node === undefined ? undefined : this.executor.options.classes.get(node.class_type);
    if (node === undefined || nodeClass === undefined) throw new Error(`node ${id} has not been validated`);
    return { node, nodeClass };
  }

  /** A text for each node that is equal for two nodes which must give the same: class, inputs and all behind them. */
  private async signatures(): Promise<Map<string, string>> {
    const known = new Map<string, string>();
    const sign = async (id: string): Promise<string> => {
      const before = known.get(id);
      if (before !== undefined) return before;
      // Against cycles in parts of the graph that no output needs and nobody validated.
      known.set(id, "");
      const node = this.graph[id];
      const nodeClass = this.executor.options.classes.get(node?.class_type ?? "");
      if (node === undefined || nodeClass === undefined) return "";
      const parts: unknown[] = [node.class_type, await this.changeKey(node, nodeClass)];
      for (const name of Object.keys(node.inputs).sort()) {
        const given = node.inputs[name];
        parts.push(name, isLink(given) ? [await sign(String(given[0])), given[1]] : { given });
      }
      const signature = createHash("sha256").update(JSON.stringify(parts)).digest("hex");
      known.set(id, signature);
      return signature;
    };
    for (const id of Object.keys(this.graph)) await sign(id);
    return known;
  }

  private async changeKey(node: GraphNode, nodeClass: NodeClass): Promise<string> {
    try {
      const literals = new Map(Object.entries(node.inputs));
      return (await nodeClass.changeKey?.(literals, this.executor.options.files)) ?? "";
    } catch {
      // A file that went away since the validation: the node itself will say so.
      return `unreadable ${Date.now()}`;
    }
  }
}
