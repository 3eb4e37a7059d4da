import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

const listeners = {};
const store = () => {
  const held = new Map();
  return { getItem: (key) => held.get(key) ?? null, setItem: (key, value) => held.set(key, value) };
};
class Socket {
  static OPEN = 1;
  static all = [];
  readyState = 1;
  sent = [];
  constructor() {
    Socket.all.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {}
  says(told) {
    this.onmessage({ data: JSON.stringify(told) });
  }
}
globalThis.WebSocket = Socket;
globalThis.location = { href: "http://here/", hash: "" };
globalThis.localStorage = store();
globalThis.sessionStorage = store();
globalThis.addEventListener = (name, then) => (listeners[name] = then);
globalThis.document = { querySelector: () => null };
mock.timers.enable({ apis: ["setInterval", "setTimeout"] });

const { films, keepFilm, stayHere } = await import("./page/films.js");
const { Director } = await import("./page/director.js");
const { listenToKeys } = await import("./page/keys.js");

const video = {
  addEventListener() {},
  setAttribute() {},
  removeAttribute() {},
  load() {},
  play: () => Promise.resolve(),
  pause() {},
  currentTime: 0,
  buffered: [],
  paused: true,
};
const model = { words: null, fps: 16, chunk_frames: 12, first_chunk_frames: 9 };
const started = { type: "session.started", session_id: "a", model, seed: 1, watch_token: "w" };
const nothing = { status: "starved", takes: [], shots: [], chunks: [], queue: [] };

/** A desk whose session has begun, and its socket. */
function begun({ directs = true } = {}) {
  const desk = new Director({ ...video });
  directs ? desk.begin({}) : desk.watch("w");
  const socket = Socket.all.at(-1);
  socket.onopen();
  socket.says({ ...started, directs, resume_token: directs ? "a-secret" : null });
  socket.says({ type: "session.state", take_id: "t1", ...nothing });
  return { desk, socket };
}

beforeEach(() => localStorage.setItem("causalcine.films", "[]"));

test("a film stays in the list where another server does not know its token", () => {
  keepFilm("old-token", { title: "Old" });
  const desk = new Director({ ...video });
  desk.reopen("old-token");
  const socket = Socket.all.at(-1);
  socket.onopen();
  socket.says({ type: "error", code: "bad_token", message: "no session", retryable: false });
  assert.equal(desk.state.errors.start.code, "bad_token");
  assert.deepEqual(films().map((film) => film.token), ["old-token"]);
});

test("a thirteenth film drops no token", () => {
  for (let i = 0; i < 50; i++) keepFilm(`token-${i}`, {});
  assert.equal(films().length, 50);
});

test("captions that a broken connection left unanswered come back", () => {
  const { desk, socket } = begun();
  const line = [];
  const events = ["A", "B", "C"].map((caption) => {
    const event = desk.append({ caption, chunks: 1 });
    desk.onRefused(event, () => line.push(caption));
    return event;
  });
  socket.says({ type: "shot.received", event_id: events[0], shot_id: "s1" });
  desk.pauseFilming();
  socket.onclose({ reason: "" });
  assert.deepEqual(line, ["B", "C"]);
  assert.deepEqual(desk.state.unsent, ["B", "C"]);
  assert.match(desk.state.errors.prompt.message, /connection broke.*timeline.*↑/);
  assert.match(desk.state.errors.notice.message, /order may be lost/);
  mock.timers.tick(10_000);
  const again = Socket.all.at(-1);
  again.onopen();
  again.says({ ...started, directs: true, resume_token: "a-secret" });
  again.says({ type: "error", code: "refused", event_id: events[0], message: "no room" });
  assert.deepEqual(line, ["B", "C", "A"]); // refused when it was to begin
  again.says({ type: "error", code: "refused", event_id: events[0], message: "no room" });
  assert.equal(line.length, 3); // answered events are forgotten
});

test("who watches is told that the director ended the film, who directs goes back", () => {
  const { desk, socket } = begun({ directs: false });
  socket.says({ type: "session.done", reason: "stopped" });
  assert.equal(desk.state.done.reason, "stopped");
  assert.equal(desk.state.session.session_id, "a");
  const own = begun();
  own.socket.says({ type: "session.done", reason: "stopped" });
  assert.equal(own.desk.state.session, null);
});

test("a shot whose first chunk is made can be chosen and is counted", () => {
  const { desk, socket } = begun();
  const shot = { shot_id: "s1", caption: "A", chunks: 2, seconds: 1.5, seed: null };
  socket.says({ type: "queue", beginning: shot, shots: [{ ...shot, shot_id: "s2" }] });
  desk.set({ selected: "s1" });
  assert.equal(desk.shot.shot_id, "s1");
});

test("keys are no orders while the field that had the focus is gone, or where they repeat", () => {
  const { desk } = begun();
  const orders = [];
  desk.pauseFilming = () => orders.push("pause");
  listenToKeys(desk);
  const body = { closest: () => null, matches: () => false };
  const press = (key, repeat = false) =>
    listeners.keydown({ key, repeat, target: body, preventDefault() {} });
  press("h");
  press("h", true);
  assert.deepEqual(orders, ["pause"]);
  const field = { matches: () => true, isConnected: true };
  listeners.focusin({ target: field });
  field.isConnected = false;
  press("h");
  assert.deepEqual(orders, ["pause"]);
  assert.match(desk.state.errors.notice.message, /field that you typed in is gone/);
  press("Escape");
  press("h");
  assert.deepEqual(orders, ["pause", "pause"]);
  assert.equal(desk.state.errors.notice, null);
});

test("a film is started when its media is opened, unless it was paused", async () => {
  const { desk, socket } = begun();
  let plays = 0;
  desk.player.init = async () => {};
  desk.player.video.play = async () => plays++;
  const opens = async () => {
    socket.says({ type: "media.init", mime: "video/mp4" });
    socket.onmessage({ data: new ArrayBuffer(8) });
    await Promise.resolve();
  };
  await opens();
  assert.equal(plays, 1);
  desk.pause();
  await opens();
  assert.equal(plays, 1);
});

test("a take that parts at the film's beginning does not put the playhead where a reload would", () => {
  const { desk, socket } = begun();
  const chunk = { chunk: 0, take_id: "t1", time_s: 0, seconds: 0.5 };
  const shot = { shot_id: "s1", caption: "A", time_s: 0, chunks: 1, first_chunk: 0 };
  const take = { take_id: "t1", parent: null, first_chunk: 0, chunks: 1 };
  const held = { ...nothing, takes: [take], shots: [shot], chunks: [chunk] };
  stayHere({ token: "a-secret", position: 0.4 });
  const sought = [];
  desk.player.seek = (time) => sought.push(time);
  const other = { ...take, take_id: "t2" };
  socket.says({ type: "take.begun", take: other, shots: [], replay: true, time_s: 0 });
  socket.says({ type: "session.state", take_id: "t2", ...held });
  assert.deepEqual(sought, []);
  desk.reopen("a-secret");
  const again = Socket.all.at(-1);
  again.onopen();
  again.says({ ...started, directs: true, resume_token: "a-secret" });
  again.says({ type: "session.state", take_id: "t2", ...held });
  assert.deepEqual(sought, [0.4]);
});

test("an order for a film that is closed names the button that opens it again", () => {
  const { desk, socket } = begun();
  socket.says({ type: "session.done", reason: "idle" });
  socket.readyState = 3;
  desk.pauseFilming();
  assert.match(desk.state.errors.notice.message, /closed\. “Go on” in the top bar/);
});
