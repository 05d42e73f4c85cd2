/** In which order the nodes of a graph run. */
import { type Graph, isLink } from "./graph.ts";
import type { NodeClasses } from "./nodes.ts";

/** The order of nodes: what is ready runs, outputs first and then what leads to one soonest, as in ComfyUI. */
export class Plan {
  private readonly waiting: Map<string, Set<string>>;
  private readonly outputs: Set<string>;

  constructor(
    private readonly graph: Graph,
    outputs: string[],
    classes: NodeClasses,
    isCached: (id: string) => boolean,
  ) {
    this.waiting = new Map();
    const add = (id: string) => {
      if (this.waiting.has(id)) return;
      // An output that is cached is visited, to tell of it again; what leads to it is not.
      const needed = isCached(id) ? [] : this.sources(id).filter((source) => !isCached(source));
      this.waiting.set(id, new Set(needed));
      needed.forEach(add);
    };
    outputs.forEach(add);
    this.outputs = new Set([...this.waiting.keys()].filter((id) => classes.get(graph[id]?.class_type ?? "")?.isOutput));
  }

  /** The next node, counted as done from here on, or null when none is left. */
  next(): string | null {
    const ready = [...this.waiting].filter(([, needed]) => needed.size === 0).map(([id]) => id);
    const id = ready.find((node) => this.outputs.has(node)) ?? ready.find((node) => this.feedsOutput(node)) ?? ready[0];
    if (id === undefined) return null;
    this.waiting.delete(id);
    for (const needed of this.waiting.values()) needed.delete(id);
    return id;
  }

  private feedsOutput(id: string): boolean {
    return [...this.waiting].some(([other, needed]) => this.outputs.has(other) && needed.has(id));
  }

  /** Inputs that the class does not know may hold anything: only what leads to a node counts. */
  private sources(id: string): string[] {
    const given = Object.values(this.graph[id]?.inputs ?? {});
    return [...new Set(given.filter(isLink).map(([source]) => source))].filter((source) => source in this.graph);
  }
}
