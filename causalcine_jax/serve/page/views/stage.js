// The picture, as large as it can be, and the buttons that move the playhead.

import { html, timecode, times, useEffect, useRef } from "../ui.js";
import { comingOf, madeOf } from "../state.js";

export function Stage({ desk }) {
  const { session, link, media, playing, chunks, position, opening, done, queue, status } =
    desk.state;
  const { video } = desk.player;
  const frame = useRef(null);
  const code = useRef(null);
  // The frame is drawn anew where another film, or a wait for room, was shown in its place.
  useEffect(
    () => frame.current?.append(video),
    [session?.session_id, opening, Boolean(position)],
  );
  useEffect(() => {
    let id = 0;
    // Its text is set here alone: one that is drawn too would be put beside this one.
    const show = () => {
      const fps = desk.state.session?.model.fps;
      if (code.current && fps) code.current.textContent = timecode(video.currentTime, fps);
      id = requestAnimationFrame(show);
    };
    show();
    return () => cancelAnimationFrame(id);
  }, []);
  if (position) {
    const before = position.position - 1;
    return html`<section class="stage">
      <p class="waiting" role="status">
        <b>${before ? `${times(before, "film")} before you` : "You are next"}</b>
        ${position.reason}. The film begins when one ends.
        <button onClick=${() => desk.close()}>Do not wait</button>
      </p>
    </section>`;
  }
  if (!session && !opening) return null;
  if (!session) {
    const text =
      link === "refused"
        ? "No answer. Open the address that the server printed; this page tries again."
        : "Opening …";
    return html`<section class="stage">
      <p class="waiting" role="status">
        ${text}<button onClick=${() => desk.close()}>Back</button>
      </p>
    </section>`;
  }
  const empty = !chunks.length && !done;
  const ratio = `${media?.width ?? session.model.width} / ${media?.height ?? session.model.height}`;
  return html`<section class="stage" aria-label="Picture">
    <div class="picture">
      <div
        class="frame"
        style=${{ "--ratio": ratio, aspectRatio: ratio }}
        onClick=${() => (playing ? desk.pause() : desk.play())}
      >
        <div class="hole" ref=${frame}></div>
        ${
          empty &&
          html`<p class="first">
            ${
              comingOf(desk.state).length || status === "making"
                ? "The first frames are being made …"
                : "Type the first shot below."
            }
          </p>`
        }
      </div>
    </div>
    <div class="transport" role="toolbar" aria-label="Playback">
      <span class="timecode" aria-hidden="true" ref=${code}></span>
      <span class="moves">
        <button
          class="quiet"
          aria-label="To the cut before"
          title="To the cut before (↑)"
          onClick=${() => desk.toCut(-1)}
        >
          ${ICONS.back}
        </button>
        <button
          class="round"
          aria-label=${playing ? "Pause" : "Play"}
          title="Play or pause (Space)"
          onClick=${() => (playing ? desk.pause() : desk.play())}
        >
          ${playing ? ICONS.pause : ICONS.play}
        </button>
        <button
          class="quiet"
          aria-label="To the cut after"
          title="To the cut after (↓)"
          onClick=${() => desk.toCut(1)}
        >
          ${ICONS.forward}
        </button>
        <button
          class="quiet"
          title="To the newest frames (L)"
          disabled=${!chunks.length}
          onClick=${() => desk.live()}
        >
          Newest
        </button>
      </span>
      ${
        session.directs
          ? html`<span class="orders">
              <button
                class="quiet"
                title="Make no more chunks until you go on; the picture plays (H)"
                aria-pressed=${status === "paused"}
                onClick=${() => desk.pauseFilming()}
              >
                ${status === "paused" ? "Go on filming" : "Pause filming"}
              </button>
              <button
                title="Cut to the next queued shot at the next chunk (C)"
                disabled=${!queue.length}
                onClick=${() => desk.cutNow()}
              >
                Cut now
              </button>
            </span>`
          : html`<span class="orders">${madeOf(desk.state).toFixed(1)} s</span>`
      }
    </div>
  </section>`;
}

const icon = (path) => html`<svg viewBox="0 0 16 16" aria-hidden="true"><path d=${path} /></svg>`;
const ICONS = {
  play: icon("M4 2.5v11l9-5.5z"),
  pause: icon("M4 3h3v10H4zM9 3h3v10H9z"),
  back: icon("M3 3h2v10H3zM13 3v10L6 8z"),
  forward: icon("M11 3h2v10h-2zM3 3v10l7-5z"),
};
