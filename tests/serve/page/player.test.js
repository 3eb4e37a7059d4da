import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { Player } from "./page/player.js";

/** A SourceBuffer of one-second chunks, whose bytes are their numbers; `most` fit. */
class Buffer extends EventTarget {
  held = new Set();
  updating = false;
  constructor(most = Infinity) {
    super();
    this.most = most;
  }
  get buffered() {
    const all = [...this.held];
    return { length: all.length, start: (i) => all[i], end: (i) => all[i] + 1 };
  }
  appendBuffer(bytes) {
    if (bytes === "header") return;
    if (this.held.size >= this.most)
      throw Object.assign(new Error("full"), { name: "QuotaExceededError" });
    this.held.add(bytes);
  }
  remove(from, to) {
    for (const each of [...this.held]) if (each >= from && each < to) this.held.delete(each);
  }
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 20));
const line = Array.from({ length: 60 }, (_, chunk) => ({
  chunk,
  key: "t1",
  time_s: chunk,
  seconds: 1,
}));

let player;
afterEach(() => player.clear());

async function playing(buffer) {
  const fetched = [];
  const video = Object.assign(new EventTarget(), { currentTime: 0, removeAttribute() {}, load() {} });
  Object.defineProperty(video, "buffered", { get: () => buffer.buffered });
  globalThis.MediaSource = class extends EventTarget {
    static isTypeSupported = () => true;
    addSourceBuffer = () => buffer;
  };
  globalThis.MediaSource.prototype.addEventListener = (name, then) => queueMicrotask(then);
  URL.createObjectURL = () => "blob:";
  URL.revokeObjectURL = () => {};
  player = new Player(video, async (key, chunk) => (fetched.push(chunk), chunk));
  player.want(line);
  const begun = player.init("video/mp4", "header");
  await settle();
  video.dispatchEvent(new Event("loadedmetadata"));
  await begun;
  await settle();
  return { video, fetched };
}

test("a chunk that the browser removed by itself is fetched again near the playhead", async () => {
  const buffer = new Buffer();
  const { video, fetched } = await playing(buffer);
  assert.deepEqual(fetched, [...Array(20).keys()]);
  buffer.remove(0, 10); // without a word
  video.currentTime = 5.5;
  video.dispatchEvent(new Event("seeking"));
  await settle();
  assert.deepEqual(fetched.slice(20, 25), [5, 6, 7, 8, 9]);
  assert.ok(buffer.held.has(5) && !buffer.held.has(4));
});

test("a full buffer makes room ahead of a playhead that went back", async () => {
  const buffer = new Buffer(25);
  const { video } = await playing(buffer);
  video.currentTime = 25;
  video.dispatchEvent(new Event("seeking"));
  await settle();
  buffer.remove(0, 20);
  video.currentTime = 0;
  video.dispatchEvent(new Event("seeking"));
  await settle();
  assert.deepEqual([...Array(20).keys()].filter((chunk) => !buffer.held.has(chunk)), []);
});

test("a chunk that the browser drops at once is not fetched again and again", async () => {
  const buffer = new Buffer();
  buffer.appendBuffer = () => {};
  const { fetched } = await playing(buffer);
  assert.equal(fetched.length, 20);
});
