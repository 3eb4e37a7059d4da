// What the model remembers: the past frames that routing retrieved for the chunk under the playhead,
// each tied by a line to its place on the timeline.

import { clock, html } from "../ui.js";
import { plan, scaleOf } from "../scale.js";
import { at } from "../state.js";

const WIDE = 92; // px of a picture and its gap
const TIE = 26; // px of height for the lines

export function Memory({ desk }) {
  const { state } = desk;
  const { chunks, shots, time, view } = state;
  const chunk = at(chunks, time);
  const width = view?.width ?? 800;
  const scale = scaleOf(state, plan(state).end);
  const retrieved = [...(chunk?.retrieved ?? [])].sort((a, b) => a.frame - b.frame);
  const placed = places(
    retrieved.map((each) => scale.x(each.time_s) - (view?.scroll ?? 0)),
    width,
  );
  const room = placed.length * WIDE > width ? placed.length * WIDE : width;
  // The strip changes with the playhead, so the focus moves on to it.
  const go = (time_s) => () => {
    desk.seek(time_s);
    document.querySelector(".playhead").focus({ preventScroll: true });
  };
  return html`<section class="memory" aria-label="Memory">
    <svg class="ties" width=${room} height=${TIE} aria-hidden="true">
      ${placed.map(([from, to], i) => {
        const opacity = 0.25 + 0.75 * retrieved[i].share;
        return html`<path key=${i} d=${curve(from, to)} style=${{ opacity }} />`;
      })}
    </svg>
    <ul style=${{ width: `${room}px` }}>
      ${retrieved.map((each, i) => {
        const shot = shots.findIndex(({ shot_id }) => shot_id === each.shot_id) + 1;
        const share = Math.round(100 * each.share);
        return html`<li key=${i} style=${{ left: `${placed[i][1]}px` }}>
          <button
            aria-label=${`Retrieved: ${clock(each.time_s)}, shot ${shot}, by ${share} % of layers`}
            title=${`Retrieved by ${share} % of the layers. Click to go there.`}
            onClick=${go(each.time_s)}
          >
            <img src=${desk.picture(each.frame)} alt="" draggable=${false} />
            <span><b>${shot}</b> ${clock(each.time_s)}</span>
            <i style=${{ width: `${share}%` }}></i>
          </button>
        </li>`;
      })}
    </ul>
    ${
      chunk &&
      !retrieved.length &&
      html`<p>Nothing retrieved here: all of the past is still in view.</p>`
    }
    <h2>${retrieved.length ? `What the chunk at ${clock(chunk.time_s)} remembers` : "Memory"}</h2>
  </section>`;
}

/** [where it comes from, where its picture's middle is]: as close as they fit side by side. */
function places(wanted, width) {
  const half = WIDE / 2;
  const middles = wanted.map((x) => Math.min(width - half, Math.max(half, x)));
  for (let i = 1; i < middles.length; i++) middles[i] = Math.max(middles[i], middles[i - 1] + WIDE);
  const over = Math.max(0, (middles.at(-1) ?? 0) - (width - half));
  let most = (middles.at(-1) ?? 0) - over;
  for (let i = middles.length - 1; i >= 0; i--, most -= WIDE)
    middles[i] = Math.min(middles[i], most);
  // In a narrow window they do not fit: then they begin at the left, and the strip scrolls.
  const short = Math.max(0, half - (middles[0] ?? half));
  return middles.map((middle, i) => [wanted[i], middle + short]);
}

const curve = (from, to) => `M${from} 0C${from} ${TIE * 0.6} ${to} ${TIE * 0.4} ${to} ${TIE}`;
