// What the views share: Preact, and how times and numbers are written.

export {
  html,
  render,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "./vendor/preact.js";

/** 0:12.4, as people say it. */
export function clock(seconds, digits = 1) {
  const tenths = Math.max(0, seconds).toFixed(digits);
  const minutes = Math.floor(tenths / 60);
  const rest = (tenths - 60 * minutes).toFixed(digits);
  return `${minutes}:${rest.padStart(digits ? 3 + digits : 2, "0")}`;
}

/** 00:12:06, minutes, seconds and frames: the frame that a cut is at. */
export function timecode(seconds, fps) {
  const frames = Math.max(0, Math.round(seconds * fps));
  const two = (number) => String(number).padStart(2, "0");
  return [Math.floor(frames / fps / 60), Math.floor(frames / fps) % 60, frames % fps]
    .map(two)
    .join(":");
}

export const times = (count, of) => `${count} ${of}${count === 1 ? "" : "s"}`;
