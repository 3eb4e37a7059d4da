// Where things are on the timeline: what is made, what the last shot still lacks, what is queued.

import { madeOf } from "./state.js";

const LEAST = 9; // px a second
const MOST = 64;
const SHORTEST = 10; // seconds that fill the timeline at first
const MARGIN = 16; // px at both ends

/** A chunk's first frame: the film's first chunk is shorter than the others. */
export function firstFrame({ chunk_frames, first_chunk_frames }, chunk) {
  return chunk ? first_chunk_frames + (chunk - 1) * chunk_frames : 0;
}

export function chunkOf({ chunk_frames, first_chunk_frames }, frame) {
  return Math.floor((frame - first_chunk_frames) / chunk_frames) + 1;
}

export function chunkSeconds({ session }) {
  return session.model.chunk_frames / session.model.fps;
}

/**
 * {made, planned: seconds that the last shot lacks, begun: the shot whose first chunk is being made,
 * blocks: queued shots, end}; both have their time_s.
 */
export function plan(state) {
  const made = madeOf(state);
  const last = state.shots.at(-1);
  const planned = last ? Math.max(0, last.asked_chunks - last.chunks) * chunkSeconds(state) : 0;
  let time = made + planned;
  const placed = (shot) => {
    const block = { ...shot, time_s: time };
    time += shot.seconds;
    return block;
  };
  const begun = state.beginning ? placed(state.beginning) : null;
  const blocks = state.queue.map(placed);
  return { made, planned, begun, blocks, end: time };
}

/** Pixels: {perSecond, width, x(seconds), seconds(x)}. Fits the film until that is too small. */
export function scaleOf(state, end) {
  const width = state.view?.width ?? 800;
  const fits = (width - 2 * MARGIN) / Math.max(SHORTEST, end + 2);
  const perSecond = Math.min(MOST, Math.max(LEAST, fits)) * (state.zoom ?? 1);
  return {
    perSecond,
    width: Math.max(width, perSecond * (end + 2) + 2 * MARGIN),
    x: (seconds) => MARGIN + seconds * perSecond,
    seconds: (x) => (x - MARGIN) / perSecond,
  };
}

/** Seconds between marks of the ruler, so that labels do not touch. */
export function markEvery(perSecond) {
  return [1, 2, 5, 10, 15, 30, 60, 120].find((step) => step * perSecond >= 64) ?? 300;
}
