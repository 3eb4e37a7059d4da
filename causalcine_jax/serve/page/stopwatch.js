// How long until the director sees it: from Enter, and from a chunk's arrival, to the screen.

export class Stopwatch {
  #asked = new Map(); // event id -> when it was sent
  #awaited = []; // {time of film, since, kind}

  /** Another film or take is shown: what is awaited does not come, or comes much later. */
  clear() {
    this.#asked.clear();
    this.#awaited = [];
  }

  /** An order was sent whose first frame will be awaited. */
  sent(event) {
    this.#asked.set(event, performance.now());
  }

  /** The order's shot begins at this time of the film. */
  begins(event, time) {
    const since = this.#asked.get(event);
    if (since) this.#awaited.push({ time, since, kind: "answer" });
    this.#asked.delete(event);
  }

  /** A chunk arrived for a player that had nothing more to show. */
  arrived(time) {
    this.#awaited.push({ time, since: performance.now(), kind: "lag" });
  }

  /** A frame is on the screen; returns the ms that this took, by kind: {answer?, lag?}. */
  shown(time) {
    const come = this.#awaited.filter((each) => each.time <= time + 1e-3);
    this.#awaited = this.#awaited.filter((each) => !come.includes(each));
    return Object.fromEntries(come.map(({ kind, since }) => [kind, performance.now() - since]));
  }
}
