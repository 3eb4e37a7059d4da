import assert from "node:assert/strict";
import { test } from "node:test";

import { at, comingOf, EMPTY, madeOf, missed, ownerOf, parting, reduced } from "./page/state.js";

const chunk = (number, shot_id, more = {}) => ({
  type: "media.chunk",
  take_id: "t1",
  chunk: number,
  shot_id,
  first_frame: number ? 9 + 12 * (number - 1) : 0,
  frames: number ? 12 : 9,
  time_s: number ? (9 + 12 * (number - 1)) / 16 : 0,
  seconds: (number ? 12 : 9) / 16,
  ...more,
});
const take = (take_id, more = {}) => ({
  take_id,
  parent: null,
  first_chunk: 0,
  chunks: 0,
  seconds: 0,
  ...more,
});
const begun = { ...EMPTY, take_id: "t1", takes: [take("t1")] };
const after = (...messages) => messages.reduce(reduced, begun);

test("a message of an unknown type changes nothing", () => {
  assert.equal(reduced(begun, { type: "toString" }), begun);
  assert.equal(reduced(begun, { type: "of a later version" }), begun);
});

test("chunks make shots, with the captions that were queued", () => {
  const queue = [
    { shot_id: "a", caption: "Mia waves.", chunks: 2, seconds: 1.3, seed: 5 },
    { shot_id: "b", caption: "Otto sleeps.", chunks: 1, seconds: 0.75, seed: null },
  ];
  const state = after(
    { type: "queue", shots: queue },
    chunk(0, "a"),
    chunk(1, "a"),
    { type: "queue", shots: [] },
    chunk(2, "b"),
  );
  assert.deepEqual(
    state.shots.map(({ caption, first_chunk, chunks, frames, asked_chunks, seed }) => [
      caption,
      first_chunk,
      chunks,
      frames,
      asked_chunks,
      seed,
    ]),
    [
      ["Mia waves.", 0, 2, 21, 2, 5],
      ["Otto sleeps.", 2, 1, 12, 1, null],
    ],
  );
  assert.equal(madeOf(state), 33 / 16);
  assert.deepEqual([state.takes[0].chunks, state.takes[0].seconds], [3, 33 / 16]);
});

test("a shot whose first chunk is made is neither queued nor lost", () => {
  const [first, second] = ["a", "b"].map((shot_id) => ({ shot_id, caption: "A", chunks: 2, seconds: 1 }));
  const making = after({ type: "queue", beginning: first, shots: [second] });
  assert.deepEqual(comingOf(making), [first, second]);
  const made = reduced(making, chunk(0, "a"));
  assert.equal(made.beginning, null);
  assert.deepEqual([made.shots[0].caption, made.shots[0].asked_chunks], ["A", 2]);
});

test("a chunk that is filmed again replaces what followed it", () => {
  const state = after(chunk(0, "a"), chunk(1, "b"), chunk(2, "b"), chunk(1, "c"));
  assert.deepEqual(
    state.chunks.map((each) => each.shot_id),
    ["a", "c"],
  );
  assert.deepEqual(
    state.shots.map((each) => each.shot_id),
    ["a", "c"],
  );
});

test("chunks of other takes, and chunks after a gap, are left out", () => {
  const state = after(chunk(0, "a"));
  assert.equal(reduced(state, chunk(1, "a", { take_id: "t2" })).chunks.length, 1);
  assert.ok(missed(state, chunk(2, "a")));
  assert.equal(reduced(state, chunk(2, "a")).chunks.length, 1);
});

test("a take that begins keeps the chunks that it shares", () => {
  const state = after(chunk(0, "a"), chunk(1, "a"), chunk(2, "b"), {
    type: "take.begun",
    take: take("t2", { parent: "t1", first_chunk: 2, chunks: 2 }),
    shots: [],
    next_chunk: 2,
    time_s: 21 / 16,
  });
  assert.deepEqual([state.take_id, state.chunks.length, state.takes.length], ["t2", 2, 2]);
  assert.match(state.said, /^Take 2 goes on from 1\.3 seconds/);
});

test("takes own the chunks from their first one on", () => {
  const takes = [
    take("t1", { chunks: 6 }),
    take("t2", { parent: "t1", first_chunk: 2, chunks: 5 }),
    take("t3", { parent: "t2", first_chunk: 4, chunks: 5 }),
  ];
  assert.deepEqual(
    [0, 2, 3, 4].map((number) => ownerOf(takes, "t3", number)),
    ["t1", "t2", "t2", "t3"],
  );
  assert.equal(parting(takes, ["t1", "t3"]), 2);
  assert.equal(parting(takes, ["t2", "t3"]), 4);
  assert.equal(parting(takes, ["t2", "t2"]), 6); // nowhere: the end of the longest
});

test("what is shown at a time began at or before it", () => {
  const list = [{ time_s: 0 }, { time_s: 0.5625 }, { time_s: 1.3125 }];
  assert.deepEqual(
    [-1, 0.5, 0.5625, 9].map((time) => at(list, time).time_s),
    [0, 0, 0.5625, 1.3125],
  );
});
