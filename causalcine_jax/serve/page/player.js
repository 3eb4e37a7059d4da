// A film's chunks in a <video>: through the socket as they are made, by HTTP where they lack.
//
// Media of every take is on one time axis, so the buffer holds one key per chunk: the take whose
// media is there. What is wanted (`#line`) differs from what is held after a retake, a reload or a
// seek into what was dropped. `#pump` makes them agree, one operation of the buffer at a time.

const AHEAD = 20; // seconds that are fetched ahead of the playhead
const BEHIND = 60; // seconds that are kept behind it where the buffer is full
const LONGEST = 24 * 3600; // seconds
const LEAD_IN = 0.03; // seconds before a new take that the playhead goes back to
const RETRY = 2000; // ms until a chunk that could not be fetched is asked for again

export class Player {
  #buffer = null;
  #held = new Map(); // chunk -> key
  #offered = new Map(); // key/chunk -> bytes from the socket
  #failed = new Map(); // key/chunk -> when it may be fetched again
  #line = [];
  #busy = false;
  #opening = false;
  #goal = 0; // where a film begins that has no media yet
  #generation = 0;

  /** fetchChunk(key, chunk) -> ArrayBuffer; fail(message) says what cannot be played. */
  constructor(video, fetchChunk, fail = () => {}) {
    this.video = video;
    this.fetchChunk = fetchChunk;
    this.fail = fail;
    video.muted = true; // films have no sound, and a muted one may be started by the page
    video.playsInline = true;
    video.disableRemotePlayback = true; // ManagedMediaSource does not open without it
    for (const name of ["seeking", "timeupdate", "waiting"]) {
      video.addEventListener(name, () => this.#pump());
    }
  }

  /** All that is wanted was shown: the next chunk is seen as soon as it can be. */
  get hungry() {
    return (
      this.ready && this.buffered < 0.05 && this.#line.every((each) => this.#held.has(each.chunk))
    );
  }

  /** Begins a film. One that is open stays: its header comes again after a dropped socket. */
  async init(mime, header) {
    if (this.#buffer || this.#opening) return;
    const Source = globalThis.MediaSource ?? globalThis.ManagedMediaSource;
    if (!Source?.isTypeSupported(mime)) return this.fail(`This browser does not play ${mime}.`);
    const generation = this.#generation;
    const source = new Source();
    const url = URL.createObjectURL(source);
    this.#opening = true;
    this.video.src = url;
    await new Promise((open) => source.addEventListener("sourceopen", open, { once: true }));
    URL.revokeObjectURL(url);
    if (generation !== this.#generation) return;
    // Else only what is buffered can be sought, and the fetching follows the seeking.
    source.setLiveSeekableRange?.(0, LONGEST);
    const buffer = source.addSourceBuffer(mime);
    // A seek before the element knows its film is lost.
    const known = new Promise((resolve) =>
      this.video.addEventListener("loadedmetadata", resolve, { once: true }),
    );
    await settled(buffer, () => buffer.appendBuffer(header));
    await known;
    if (generation !== this.#generation) return;
    this.#opening = false;
    this.#buffer = buffer;
    if (this.#goal) this.video.currentTime = this.#goal;
    this.#pump();
  }

  get ready() {
    return this.#buffer !== null;
  }

  /** Forgets the film. */
  clear() {
    this.#generation++;
    this.#buffer = null;
    this.#opening = false;
    this.#goal = 0;
    this.#line = [];
    for (const map of [this.#held, this.#offered, this.#failed]) map.clear();
    this.video.removeAttribute("src");
    this.video.load();
  }

  /** The chunks to play: [{chunk, key, time_s, seconds}] from the film's beginning. */
  want(line) {
    this.#line = line;
    this.#pump();
  }

  /** Media that came without asking. */
  offer(key, chunk, bytes) {
    this.#offered.set(`${key}/${chunk}`, bytes);
    this.#pump();
  }

  seek(time) {
    this.#goal = Math.max(0, time);
    if (this.#buffer) this.video.currentTime = this.#goal;
  }

  /** Seconds that are buffered after the playhead. */
  get buffered() {
    const { buffered, currentTime } = this.video;
    for (let i = 0; i < buffered.length; i++) {
      if (buffered.start(i) <= currentTime + 0.05 && currentTime < buffered.end(i)) {
        return buffered.end(i) - currentTime;
      }
    }
    return 0;
  }

  async #pump() {
    if (this.#busy || !this.#buffer) return;
    this.#busy = true;
    const generation = this.#generation;
    try {
      while (generation === this.#generation && (await this.#step(generation)));
    } catch (error) {
      if (generation === this.#generation) this.fail(`The film cannot be played: ${error.message}`);
    } finally {
      this.#busy = false;
      if (generation !== this.#generation) this.#pump();
    }
  }

  /** One operation; false when there is nothing to do. */
  async #step(generation) {
    const buffer = this.#buffer;
    const stale = this.#stale();
    if (stale !== null) {
      for (const chunk of [...this.#held.keys()])
        if (chunk >= stale.chunk) this.#held.delete(chunk);
      await settled(buffer, () => buffer.remove(stale.time, Infinity));
      // To the last frame before it: what follows is then seen from its beginning.
      if (this.video.currentTime > stale.time - LEAD_IN) this.seek(stale.time - LEAD_IN);
      return true;
    }
    const next = this.#next();
    if (!next) return false;
    const name = `${next.key}/${next.chunk}`;
    let bytes = this.#offered.get(name);
    if (!bytes) {
      try {
        bytes = await this.fetchChunk(next.key, next.chunk);
      } catch {
        return this.#later(name);
      }
    }
    // What is wanted may have changed while it was fetched.
    if (generation !== this.#generation || this.#line[next.chunk]?.key !== next.key) return true;
    try {
      await settled(buffer, () => buffer.appendBuffer(bytes));
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      if (this.#near(next)) return this.#makeRoom(buffer);
      this.#offered.delete(name); // it is fetched when the playhead comes near
      return true;
    }
    if (generation !== this.#generation) return false;
    this.#offered.delete(name);
    this.#held.set(next.chunk, next.key);
    // Where the browser drops it at once, it must not be fetched again and again.
    return this.#covers(next) || this.#later(name);
  }

  /** The first chunk that is held and no longer wanted. */
  #stale() {
    let first = null;
    for (const [chunk, key] of this.#held) {
      if (this.#line[chunk]?.key !== key && (first === null || chunk < first)) first = chunk;
    }
    if (first === null) return null;
    const wanted = this.#line[first] ?? this.#line.at(-1);
    const time = !wanted
      ? 0
      : wanted.chunk === first
        ? wanted.time_s
        : wanted.time_s + wanted.seconds;
    return { chunk: first, time };
  }

  /** A chunk is tried again after a while. */
  #later(name) {
    this.#failed.set(name, performance.now() + RETRY);
    setTimeout(() => this.#pump(), RETRY);
    return true;
  }

  /** Whether a chunk is at the playhead or soon after it. */
  #near({ time_s, seconds }) {
    const now = this.video.currentTime;
    return time_s + seconds > now - 1e-3 && time_s < now + AHEAD;
  }

  /** Whether the buffer has a chunk. Browsers remove what was played without a word. */
  #covers({ time_s, seconds }) {
    const { buffered } = this.#buffer;
    const middle = time_s + seconds / 2; // ends are rounded
    for (let i = 0; i < buffered.length; i++) {
      if (buffered.start(i) <= middle && middle < buffered.end(i)) return true;
    }
    return false;
  }

  #next() {
    let offered = null;
    for (const each of this.#line) {
      const near = this.#near(each);
      const held = this.#held.get(each.chunk) === each.key;
      if (held && (!near || this.#covers(each))) continue;
      const name = `${each.key}/${each.chunk}`;
      if (this.#offered.has(name)) {
        if (near) return each;
        offered ??= each;
      } else if (near && !(this.#failed.get(name) > performance.now())) {
        return each;
      }
    }
    return offered;
  }

  async #makeRoom(buffer) {
    const now = this.video.currentTime;
    const end = (each) => each.time_s + each.seconds;
    const held = this.#line.filter((each) => this.#held.has(each.chunk));
    const old = (keep) => held.filter((each) => end(each) < now - keep);
    const far = held.filter((each) => each.time_s >= now + AHEAD);
    const gone = [old(BEHIND), far, old(5)].find((chunks) => chunks.length);
    if (!gone) return false; // the playhead moves on and makes room
    for (const each of gone) this.#held.delete(each.chunk);
    const [from, to] = gone === far ? [far[0].time_s, Infinity] : [0, end(gone.at(-1))];
    await settled(buffer, () => buffer.remove(from, to));
    return true;
  }
}

/** Runs an operation of a SourceBuffer and waits for its end. */
function settled(buffer, operation) {
  return new Promise((resolve, reject) => {
    const listening = new AbortController();
    const listen = (name, then) =>
      buffer.addEventListener(name, then, { signal: listening.signal });
    const end = (settle, value) => {
      listening.abort();
      settle(value);
    };
    listen("updateend", () => end(resolve));
    listen("error", () => end(reject, new Error("the media is damaged")));
    try {
      operation();
      if (!buffer.updating) end(resolve);
    } catch (error) {
      end(reject, error);
    }
  });
}
