// A shot that has begun, as a strip of its frames.

import { clock, html } from "../ui.js";

const INTO = 2; // frames into a chunk, where its picture is taken

export function Made({ desk, shot, number, scale, shown }) {
  const left = scale.x(shot.time_s);
  const width = shot.seconds * scale.perSecond;
  const go = (event) => {
    // A click goes to the place that was clicked; Enter on the focused shot to its beginning.
    const box = event.currentTarget.getBoundingClientRect();
    const inside = event.detail ? (event.clientX - box.left) / scale.perSecond : 0;
    desk.seek(shot.time_s + Math.max(0, inside));
    desk.set({ selected: shot.shot_id });
  };
  const end = shot.time_s + shot.seconds;
  return html`<li
    class="made ${shown ? "shown" : ""} ${shot.first_chunk ? "cut" : ""}"
    style=${{ left: `${left}px`, width: `${width}px` }}
  >
    <button
      class="shot"
      data-shot=${shot.shot_id}
      aria-current=${shown ? "true" : undefined}
      aria-label=${`Shot ${number}, ${clock(shot.time_s)} to ${clock(end)}: ${shot.caption}`}
      title=${shot.caption}
      onClick=${go}
    >
      <${Strip} desk=${desk} shot=${shot} scale=${scale} />
      <span class="label"><b>${number}</b> ${shot.caption}</span>
    </button>
  </li>`;
}

/** Pictures side by side, of every chunk, or every second, fourth, ... one, as there is room. */
function Strip({ desk, shot, scale }) {
  const { chunks, session } = desk.state;
  const { model } = session;
  const wide = Math.max(24, (46 * model.width) / model.height); // px of a picture
  const perChunk = (model.chunk_frames / model.fps) * scale.perSecond;
  let stride = 1;
  while (stride * perChunk < wide) stride *= 2;
  const own = chunks.slice(shot.first_chunk, shot.first_chunk + shot.chunks);
  const pictures = own.filter((_, i) => i % stride === 0);
  return html`<span class="strip" aria-hidden="true">
    ${pictures.map(
      (chunk) =>
        html`<img
          key=${chunk.chunk}
          src=${desk.picture(chunk.first_frame + INTO)}
          alt=""
          decoding="async"
          draggable=${false}
          style=${{
            left: `${(chunk.time_s - shot.time_s) * scale.perSecond}px`,
            width: `${stride * perChunk}px`,
          }}
        />`,
    )}
  </span>`;
}
