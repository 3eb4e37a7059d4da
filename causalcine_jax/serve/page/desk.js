// The desk: the state, the socket and the player, and what messages do to them.

import { films, here, keepFilm, stayHere } from "./films.js";
import { Link } from "./link.js";
import { Player } from "./player.js";
import { chunkOf } from "./scale.js";
import { Stopwatch } from "./stopwatch.js";
import { againOf, EMPTY, madeOf, missed, ownerOf, reduced } from "./state.js";

const REPORT_MS = 250; // the server makes each chunk just before the playhead needs it

export class Desk {
  state = { ...EMPTY, time: 0, playing: true, selected: null, panel: null, words: null };
  #listeners = new Set();
  #sent = new Map(); // event id -> {place of its error, caption, refused(), received}
  stopwatch = new Stopwatch();
  #start = null; // the first message
  #joined = false; // this socket has its session
  #placed = false; // the playhead of this film is where it was left

  constructor(video) {
    this.player = new Player(
      video,
      (key, chunk) => this.fetchMedia(`takes/${key}/chunks/${chunk}`),
      (message) => this.fail("notice", { message }),
    );
    this.link = new Link({
      message: (told) => this.#told(told),
      media: (told, bytes) => this.#media(told, bytes),
      state: (link, reason) => this.#linked(link, reason),
    });
    setInterval(() => this.report(), REPORT_MS);
    for (const name of ["seeked", "play", "pause"]) {
      video.addEventListener(name, () => this.report());
    }
    const shown = (_, { mediaTime }) => {
      const times = this.stopwatch.shown(mediaTime);
      if (Object.keys(times).length) this.set(times);
      video.requestVideoFrameCallback(shown);
    };
    video.requestVideoFrameCallback?.(shown);
    addEventListener("pagehide", () => this.#leave());
  }

  // --- the state ---

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  set(change) {
    this.state = { ...this.state, ...change };
    for (const listener of this.#listeners) listener();
  }

  fail(place, error) {
    this.set({ errors: { ...this.state.errors, [place]: error } });
  }

  clear(place) {
    if (this.state.errors[place]) this.fail(place, null);
  }

  // --- sessions ---

  /** Begins a film: what session.start holds besides its type. */
  begin(start) {
    this.#open({ type: "session.start", ...start });
  }

  reopen(token) {
    this.#open({ type: "session.start", resume_token: token });
  }

  watch(token) {
    this.#open({ type: "session.watch", watch_token: token });
  }

  #open(start) {
    this.player.clear();
    this.#sent.clear();
    this.stopwatch.clear();
    this.#placed = false;
    const { words, link } = this.state;
    this.state = { ...this.state, ...EMPTY, words, link, selected: null, playing: true };
    this.#start = start;
    this.link.open(() => this.#hello());
    this.set({ opening: true });
  }

  /** After a dropped socket the session is asked for by its token, so that no second one begins. */
  #hello() {
    const { session } = this.state;
    this.#joined = false;
    if (!session) return this.#start;
    if (session.directs) return { type: "session.start", resume_token: session.resume_token };
    return { type: "session.watch", watch_token: session.watch_token };
  }

  /** Back to the start form; the film stays in the list. */
  leave() {
    this.#leave();
    if (this.state.link === "open" && this.state.session?.directs)
      this.send({ type: "session.stop" }, "notice");
    this.close();
  }

  close() {
    stayHere(null);
    this.link.close();
    this.player.clear();
    this.#sent.clear();
    this.set({ ...EMPTY, opening: false, selected: null, panel: null });
  }

  #leave() {
    const { session } = this.state;
    if (session?.directs)
      stayHere({ token: session.resume_token, position: this.player.video.currentTime });
  }

  // --- messages ---

  /** Sends a message whose error is shown at `place`. */
  send(message, place) {
    this.clear(place);
    const event = this.link.send(message);
    if (event === null) return this.fail(place, { message: whyNotSent(this.state) });
    this.#sent.set(event, { place, caption: message.shot?.caption });
    return event;
  }

  /** Also where the connection breaks before an answer. */
  onRefused(event, then) {
    this.#sent.get(event).refused = then;
  }

  /** What a message answers. A shot that is queued may still be refused when it begins. */
  #answered({ type, event_id }) {
    const sent = this.#sent.get(event_id);
    if (sent && type === "shot.received") sent.received = true;
    else this.#sent.delete(event_id);
    return sent;
  }

  #linked(link, linkReason) {
    this.set({ link, linkReason });
    if (link === "lost" || link === "refused") this.#giveBack();
  }

  /** Says which orders a broken connection left unanswered; the prompt line has their captions. */
  #giveBack() {
    const open = [...this.#sent].filter(([, sent]) => !sent.received);
    const broke = "The connection broke before the server answered";
    for (const [event, { place, caption, refused }] of open) {
      this.#sent.delete(event);
      refused?.();
      const message = caption
        ? `${broke}. Look whether the timeline has this shot; ↑ brings its caption back.`
        : `${broke}: this order may be lost.`;
      this.fail(place, { message });
    }
    const captions = open.map(([, sent]) => sent.caption).filter(Boolean);
    this.set({ unsent: [...this.state.unsent, ...captions] });
  }

  #told(told) {
    const sent = this.#answered(told);
    if (told.type === "error") return this.#error(told, sent);
    this.set(reduced(this.state, told));
    if (told.type === "session.started") this.#begun(told);
    if (told.type === "session.state") this.#restore();
    if (told.type === "shot.applied") this.stopwatch.begins(told.event_id, told.time_s);
    if (told.type === "take.begun") this.#newTake(told);
    if (told.type === "session.done") this.#ended(told);
    if (told.type === "media.dropped") this.link.send({ type: "snapshot" });
  }

  #ended({ reason }) {
    // A server that stops may start again: the link asks until it does.
    if (reason === "server") return this.set({ done: null });
    this.link.close();
    // Who directs stopped it and goes back to the start form; who watches is told that it ended.
    if (reason === "stopped" && this.state.session?.directs) this.close();
  }

  #error(told, sent) {
    const { session } = this.state;
    sent?.refused?.();
    if (this.#joined) return this.fail(sent?.place ?? "notice", told);
    // The link asks again for a film that is begun: the server may be full, or open it just now.
    // A viewer may come back before its director.
    const waits = told.retryable || told.code === "full" || !session?.directs;
    if (session && waits) return this.fail("notice", told);
    // The film stays in the list: it may be another server's at the same address.
    this.close();
    this.fail("start", told);
  }

  #begun(told) {
    this.#joined = true;
    this.set({ opening: false, words: told.model.words });
    if (!told.directs) return;
    keepFilm(told.resume_token, { seed: told.seed });
    if (here()?.token !== told.resume_token) stayHere({ token: told.resume_token, position: null });
  }

  /** session.state: the first one puts the playhead where it was, else on the last shot. */
  #restore() {
    const { session, shots, chunks, global_caption } = this.state;
    if (!this.#placed && chunks.length) {
      const kept = session.directs ? here()?.position : null;
      this.player.seek(Math.min(kept ?? shots.at(-1).time_s, madeOf(this.state)));
    }
    this.#placed = true;
    if (session.directs)
      keepFilm(session.resume_token, { title: global_caption || shots[0]?.caption });
    this.#wantLine();
  }

  /** The player goes back to where the new take parts from what was shown. */
  #newTake(told) {
    if (told.replay) this.link.send({ type: "snapshot" });
    this.stopwatch.clear();
    this.#wantLine();
    this.set({ selected: null });
    this.play();
  }

  #media(told, bytes) {
    const lacks = told.type === "media.chunk" && missed(this.state, told);
    this.set(reduced(this.state, told));
    if (told.type === "media.init") return this.#opened(told.mime, bytes);
    if (this.player.hungry) this.stopwatch.arrived(told.time_s);
    this.player.offer(told.take_id, told.chunk, bytes);
    this.#wantLine();
    if (lacks || !this.state.shots.at(-1)?.caption) this.link.send({ type: "snapshot" });
  }

  /** Browsers start a film by themselves only where seconds of it are there: more than is made. */
  async #opened(mime, header) {
    await this.player.init(mime, header);
    if (this.state.playing) this.play();
  }

  #wantLine() {
    const { takes, take_id, chunks } = this.state;
    this.player.want(chunks.map((each) => ({ ...each, key: ownerOf(takes, take_id, each.chunk) })));
  }

  async fetchMedia(path) {
    const answer = await fetch(`v1/sessions/${this.state.session.session_id}/${path}`);
    if (!answer.ok) throw new Error((await answer.json()).error?.message ?? answer.statusText);
    return answer.arrayBuffer();
  }

  /** The address of a video frame's picture. A frame is kept under the take that made it. */
  picture(frame, take_id = this.state.take_id) {
    const { chunks, session, takes } = this.state;
    const chunk = chunkOf(session.model, frame);
    if (take_id === this.state.take_id && !chunks[chunk]) return null;
    const owner = ownerOf(takes, take_id, chunk);
    return `v1/sessions/${session.session_id}/takes/${owner}/frames/${frame}`;
  }

  // --- times ---

  report() {
    const { session, link } = this.state;
    if (!session?.directs || link !== "open" || !this.#joined) return;
    const { currentTime, paused } = this.player.video;
    const told = {
      type: "playback.report",
      position_s: currentTime,
      buffered_s: this.player.buffered,
      playing: !paused,
    };
    this.link.send(told, { event: false });
  }
}

/** Why nothing can be sent, and what helps. */
const whyNotSent = (state) =>
  state.done
    ? `Not sent: this film is closed. “${againOf(state)}” in the top bar opens it again.`
    : "Not connected: this was not sent. Trying again.";

/** Opens what this tab showed before it was loaded again. */
export function resumeHere(desk) {
  const watched = new URLSearchParams(location.hash.slice(1)).get("watch");
  if (watched) return desk.watch(watched);
  const token = here()?.token;
  if (token && films().some((film) => film.token === token)) desk.reopen(token);
}
