/** Lets so many in at once; the others wait in order, up to a bound. */
export class Gate {
  private inside = 0;
  private readonly waiting: (() => void)[] = [];

  constructor(
    private readonly width: number,
    private readonly maxWaiting: number,
  ) {}

  get isIdle(): boolean {
    return this.inside === 0;
  }

  /** @returns false when too many wait already; nothing was run then */
  async enter(): Promise<boolean> {
    if (this.inside < this.width) {
      this.inside += 1;
      return true;
    }
    if (this.waiting.length >= this.maxWaiting) return false;
    await new Promise<void>((go) => this.waiting.push(go)); // the place is handed over, `inside` stays
    return true;
  }

  leave(): void {
    const next = this.waiting.shift();
    if (next) next();
    else this.inside -= 1;
  }
}
