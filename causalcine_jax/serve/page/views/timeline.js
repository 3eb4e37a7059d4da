// One timeline: ruler, shots made, the head where the film grows, shots to come, the playhead.

import { clock, html, useEffect, useRef } from "../ui.js";
import { chunkSeconds, markEvery, plan, scaleOf } from "../scale.js";
import { dragging } from "../drag.js";
import { at } from "../state.js";
import { Made } from "./made_shot.js";
import { Queued } from "./queued_shot.js";

const FOLLOW = 0.82; // of the width, where the playhead begins to push the view

export function Timeline({ desk }) {
  const { state } = desk;
  const { video } = desk.player;
  const outer = useRef(null);
  const head = useRef(null);
  const { made, planned, begun, blocks, end } = plan(state);
  const scale = scaleOf(state, end);
  const scrub = useScrub(desk, outer, scale);
  useMeasured(desk, outer);
  usePlayhead(desk, outer, head, scale);

  const step = markEvery(scale.perSecond);
  const marks = Array.from(
    { length: Math.floor(scale.seconds(scale.width) / step) + 1 },
    (_, i) => i * step,
  );
  const chunk = at(state.chunks, state.time);
  const shown = desk.shot?.shot_id;
  return html`<div class="timeline" ref=${outer}>
    <div class="track" style=${{ width: `${scale.width}px` }}>
      <div class="ruler" ...${scrub}>
        ${marks.map((mark) => {
          const left = `${scale.x(mark)}px`;
          return html`<span key=${mark} style=${{ left }}>${clock(mark, 0)}</span>`;
        })}
      </div>
      <ol class="shots" aria-label="Shots" onKeyDown=${walk}>
        ${state.shots.map(
          (shot, i) =>
            html`<${Made}
              key=${shot.shot_id}
              desk=${desk}
              shot=${shot}
              number=${i + 1}
              scale=${scale}
              shown=${shown === shot.shot_id}
            />`,
        )}
        ${
          planned > 0 &&
          html`<${Planned}
            key="planned"
            desk=${desk}
            shot=${state.shots.at(-1)}
            from=${made}
            seconds=${planned}
            scale=${scale}
          />`
        }
        ${(begun ? [begun, ...blocks] : blocks).map(
          (shot, i) =>
            html`<${Queued}
              key=${shot.shot_id}
              desk=${desk}
              shot=${shot}
              place=${begun ? i - 1 : i}
              number=${state.shots.length + i + 1}
              blocks=${blocks}
              scale=${scale}
            />`,
        )}
      </ol>
      ${(chunk?.retrieved ?? []).map(
        (each) =>
          html`<i
            class="retrieved-mark"
            key=${each.frame}
            style=${{ left: `${scale.x(each.time_s)}px` }}
          ></i>`,
      )}
      <div
        class="head ${state.status}"
        style=${{ left: `${scale.x(made)}px` }}
        title="Made so far"
      ></div>
      <div
        class="playhead"
        ref=${head}
        role="slider"
        tabindex="0"
        aria-label="Playhead"
        aria-valuemin="0"
        aria-valuemax=${made.toFixed(1)}
        aria-valuenow=${video.currentTime.toFixed(1)}
        aria-valuetext=${`${video.currentTime.toFixed(1)} of ${made.toFixed(1)} seconds`}
      ></div>
    </div>
  </div>`;
}

/** What the shot that is being filmed still lacks; its end is dragged like that of a queued one. */
function Planned({ desk, shot, from, seconds, scale }) {
  const chunk = chunkSeconds(desk.state);
  const box = useRef(null);
  const resize = (event) => {
    if (!desk.state.session.directs) return;
    event.preventDefault();
    const width = seconds * scale.perSecond;
    const left = (dx) => Math.max(0, Math.round((width + dx) / scale.perSecond / chunk));
    dragging(
      event,
      (dx) => box.current && (box.current.style.width = `${left(dx) * chunk * scale.perSecond}px`),
      (dx) => desk.update(shot.shot_id, { chunks: Math.max(1, shot.chunks + left(dx)) }),
    );
  };
  return html`<li
    class="planned"
    ref=${box}
    style=${{ left: `${scale.x(from)}px`, width: `${seconds * scale.perSecond}px` }}
    aria-hidden="true"
  >
    <span class="handle" onPointerDown=${resize}></span>
  </li>`;
}

/** Left and right walk from shot to shot. */
function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.altKey || event.shiftKey || event.ctrlKey) return;
  const shots = [...event.currentTarget.querySelectorAll("button.shot")];
  const next = shots[shots.indexOf(document.activeElement) + step];
  event.preventDefault();
  event.stopPropagation();
  next?.focus();
  next?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function useScrub(desk, outer, scale) {
  const to = (clientX) => {
    const { left } = outer.current.getBoundingClientRect();
    desk.seek(scale.seconds(clientX - left + outer.current.scrollLeft));
  };
  const onPointerDown = (event) => {
    event.preventDefault();
    to(event.clientX);
    dragging(
      event,
      (_, clientX) => to(clientX),
      () => {},
    );
  };
  return { onPointerDown };
}

/** Keeps the view's width and scroll in the state: the memory strip is tied to places on it. */
function useMeasured(desk, outer) {
  useEffect(() => {
    const box = outer.current;
    const measure = () => {
      const view = { width: box.clientWidth, scroll: box.scrollLeft };
      const before = desk.state.view;
      if (view.width !== before?.width || view.scroll !== before?.scroll) desk.set({ view });
    };
    const watching = new ResizeObserver(measure);
    watching.observe(box);
    box.addEventListener("scroll", measure, { passive: true });
    measure();
    return () => watching.disconnect();
  }, []);
}

/** Moves the playhead with every frame of the screen, outside of the page's drawing. */
function usePlayhead(desk, outer, head, scale) {
  const now = useRef(scale);
  now.current = scale;
  useEffect(() => {
    let id = 0;
    let before = -1;
    const move = () => {
      id = requestAnimationFrame(move);
      const x = now.current.x(desk.player.video.currentTime);
      head.current.style.transform = `translateX(${x}px)`;
      const box = outer.current;
      const seen = x - box.scrollLeft;
      // Only a playhead that moves pushes the view, so that a director may look elsewhere.
      if (Math.abs(x - before) > 0.01 && (seen > FOLLOW * box.clientWidth || seen < 0)) {
        box.scrollLeft = x - 0.5 * box.clientWidth;
      }
      before = x;
    };
    move();
    return () => cancelAnimationFrame(id);
  }, []);
}
