import assert from "node:assert/strict";
import { test } from "node:test";

import { chunkOf, firstFrame, markEvery, plan, scaleOf } from "./page/scale.js";

const model = { chunk_frames: 12, first_chunk_frames: 9, fps: 16 };

test("frames and chunks agree: the first chunk is shorter", () => {
  assert.deepEqual([0, 1, 2].map((chunk) => firstFrame(model, chunk)), [0, 9, 21]);
  assert.deepEqual([0, 8, 9, 20, 21].map((frame) => chunkOf(model, frame)), [0, 0, 1, 1, 2]);
});

test("queued shots follow what is made and what the last shot lacks", () => {
  const state = {
    session: { model },
    chunks: [{ time_s: 0, seconds: 0.5625 }],
    shots: [{ chunks: 1, asked_chunks: 3 }],
    queue: [{ shot_id: "b", seconds: 3 }, { shot_id: "c", seconds: 1 }],
  };
  const { made, planned, blocks, end } = plan(state);
  assert.deepEqual([made, planned, end], [0.5625, 1.5, 6.0625]);
  assert.deepEqual(blocks.map((block) => block.time_s), [2.0625, 5.0625]);
  const begins = plan({ ...state, shots: [], beginning: { shot_id: "a", seconds: 2 } });
  assert.deepEqual([begins.begun.time_s, begins.blocks[0].time_s], [0.5625, 2.5625]);
  assert.equal(plan({ ...state, shots: [{ chunks: 4, asked_chunks: 3 }] }).planned, 0);
});

test("pixels and seconds are each other's inverse, and a long film is not squeezed", () => {
  const short = scaleOf({ view: { width: 800 } }, 0);
  assert.equal(short.width, 800);
  assert.equal(short.perSecond, 64);
  assert.equal(short.seconds(short.x(3.25)), 3.25);
  const long = scaleOf({ view: { width: 800 } }, 600);
  assert.equal(long.perSecond, 9);
  assert.ok(long.width > 5000);
  assert.equal(scaleOf({ view: { width: 800 }, zoom: 2 }, 600).perSecond, 18);
});

test("marks of the ruler leave room for their labels", () => {
  assert.deepEqual([64, 20, 9, 0.1].map(markEvery), [1, 5, 10, 300]);
});
