// A shot to come: dragged to another place, made longer or shorter at its end, chosen to be edited.
// While its first chunk is made it has begun, and is not moved any more.

import { clock, html, useEffect, useRef, useState } from "../ui.js";
import { dragging } from "../drag.js";
import { chunkSeconds } from "../scale.js";

const KEYS = "Alt and arrows move it, Shift and arrows change its length, Delete removes it";
const STEADY = 5; // px within which a press is a click

/** place: among the queued shots, from 0; -1 of the shot whose first chunk is being made. */
export function Queued({ desk, shot, place, number, blocks, scale }) {
  const [moving, setMoving] = useState(null); // {dx} or {chunks} while it is dragged
  const item = useRef(null);
  const movable = desk.state.session.directs && place >= 0;
  const chunk = chunkSeconds(desk.state);
  const followed = useRef(false);
  const now = useRef(null); // the queue may move while a block is dragged
  now.current = { place, blocks, scale };
  // Moving its element in the page takes the focus away from it.
  useEffect(() => {
    if (followed.current && document.activeElement === document.body)
      item.current.querySelector("button").focus();
    followed.current = false;
  }, [place]);
  const kind = place < 0 ? "Beginning" : "Queued";
  const chosen = desk.state.selected === shot.shot_id;
  const seconds = moving?.chunks ? moving.chunks * chunk : shot.seconds;

  const drag = (event) => {
    if (!movable || event.button) return;
    dragging(
      event,
      (dx) => Math.abs(dx) > STEADY && setMoving({ dx }),
      (dx) => {
        setMoving(null);
        if (Math.abs(dx) > STEADY && now.current.place >= 0)
          desk.move(shot.shot_id, placeAt(now.current, dx));
      },
    );
  };
  const resize = (event) => {
    if (!movable) return;
    event.preventDefault();
    event.stopPropagation();
    const chunks = (dx) => Math.max(1, Math.round((shot.seconds + dx / scale.perSecond) / chunk));
    dragging(
      event,
      (dx) => setMoving({ chunks: chunks(dx) }),
      (dx) => {
        setMoving(null);
        if (chunks(dx) !== shot.chunks) desk.update(shot.shot_id, { chunks: chunks(dx) });
      },
    );
  };
  const keys = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!movable) return;
    if (step && event.altKey) followed.current = Boolean(desk.move(shot.shot_id, place + step));
    else if (step && event.shiftKey)
      desk.update(shot.shot_id, { chunks: Math.max(1, shot.chunks + step) });
    else if (event.key === "Delete" || event.key === "Backspace") {
      const near = item.current.previousElementSibling ?? item.current.nextElementSibling;
      desk.remove(shot.shot_id);
      near?.querySelector("button")?.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const style = {
    left: `${scale.x(shot.time_s)}px`,
    width: `${seconds * scale.perSecond}px`,
    transform: moving?.dx ? `translateX(${moving.dx}px)` : "",
  };
  return html`<li
    class="${place < 0 ? "begins" : "queued"} ${chosen ? "chosen" : ""} ${moving ? "moving" : ""}"
    style=${style}
    ref=${item}
  >
    <button
      class="shot"
      data-shot=${shot.shot_id}
      aria-label=${`${kind} shot ${number}, ${seconds.toFixed(1)} seconds: ${shot.caption}`}
      aria-pressed=${chosen}
      aria-description=${movable ? KEYS : undefined}
      title=${shot.caption}
      onPointerDown=${drag}
      onKeyDown=${keys}
      onFocus=${() => desk.set({ selected: shot.shot_id })}
      onClick=${() => desk.set({ selected: shot.shot_id })}
      onDblClick=${() => document.getElementById("caption")?.focus()}
    >
      <span class="label"><b>${number}</b> ${shot.caption}</span>
      <span class="length">${clock(seconds)}</span>
    </button>
    ${movable && html`<span class="handle" aria-hidden="true" onPointerDown=${resize}></span>`}
  </li>`;
}

/** The place of a block that was dragged by so many pixels: its middle among the others'. */
function placeAt({ blocks, place, scale }, dx) {
  const middle = (block) => block.time_s + block.seconds / 2;
  const dropped = middle(blocks[place]) + dx / scale.perSecond;
  return blocks.filter((block, i) => i !== place && middle(block) < dropped).length;
}
