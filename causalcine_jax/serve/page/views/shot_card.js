// The shot under the playhead, or the one that was chosen: made, or to be made.

import { html, timecode, times, useEffect, useState } from "../ui.js";
import { chunkSeconds } from "../scale.js";
import { at, comingOf, takeNumber } from "../state.js";
import { Fault } from "./error.js";
import { Seed, seedOf, Stepper } from "./fields.js";
import { WordsField } from "./words_field.js";

const BEGINS = "This shot has just begun. Once its first frames are here, Enter films it again.";

export function ShotCard({ desk }) {
  const { shots, beginning } = desk.state;
  const shot = desk.shot;
  if (!shot)
    return html`<section class="card">
      <h2>Shot</h2>
      <p class="hint">Shots that you type appear here.</p>
    </section>`;
  const coming = comingOf(desk.state);
  const number = [...shots, ...coming].findIndex((each) => each.shot_id === shot.shot_id) + 1;
  return html`<${Card}
    key=${shot.shot_id}
    desk=${desk}
    shot=${shot}
    number=${number}
    made=${number <= shots.length}
    place=${number - 1 - shots.length - (beginning ? 1 : 0)}
  />`;
}

/**
 * One component from queue to film, so that a field which is typed in stays when the shot begins.
 * place: among the queued shots, from 0; -1 of the shot whose first chunk is being made.
 */
function Card({ shot, made, ...given }) {
  const [caption, setCaption] = useState(shot.caption);
  const [seed, setSeed] = useState("");
  useEffect(() => setCaption(shot.caption), [shot.caption]);
  const draw = made ? madeCard : queuedCard;
  return draw({ ...given, shot, caption, setCaption, seed, setSeed });
}

function Caption({ desk, shot, value, onValue, onEnter }) {
  const { session, errors, words } = desk.state;
  return html`<label class="unseen" for="caption">Caption</label>
    <${WordsField}
      id="caption"
      rows="4"
      value=${value}
      words=${words}
      onValue=${onValue}
      onEnter=${onEnter}
      onKey=${leave}
      maxLength=${session.limits.caption_characters}
      readOnly=${!session.directs}
      aria-invalid=${Boolean(errors[`shot ${shot.shot_id}`])}
    />`;
}

function madeCard({ desk, shot, number, caption, setCaption, seed, setSeed }) {
  const { session } = desk.state;
  const retake = () => {
    const words = caption.trim();
    desk.retake(shot.shot_id, {
      ...(words && words !== shot.caption && { caption: words }),
      ...seedOf(seed),
    });
    setSeed(""); // once more is again another seed
  };
  const { fps } = session.model;
  const asked = Math.max(shot.asked_chunks, shot.chunks);
  const last = shot.shot_id === desk.state.shots.at(-1)?.shot_id;
  const longer = (step) => desk.update(shot.shot_id, { chunks: Math.max(shot.chunks, asked + step) });
  // While it is edited the card stays with this shot, though the playhead moves on.
  const pin = () => desk.set({ selected: shot.shot_id });
  return html`<section class="card" aria-label=${`Shot ${number}`} onFocusIn=${pin}>
    <h2>
      Shot ${number}<span class="mono"
        >${timecode(shot.time_s, fps)} – ${timecode(shot.time_s + shot.seconds, fps)}</span
      >
    </h2>
    <form onSubmit=${(event) => (event.preventDefault(), retake())}>
      <${Caption}
        desk=${desk}
        shot=${shot}
        value=${caption}
        onValue=${setCaption}
        onEnter=${retake}
      />
      ${
        session.directs &&
        html`<div class="row">
          ${
            last &&
            html`<${Stepper}
              chunks=${asked}
              seconds=${asked * chunkSeconds(desk.state)}
              onStep=${longer}
            />`
          }
          <${Seed} value=${seed} onValue=${setSeed} otherwise=${shot.seed ?? session.seed} />
          <button
            type="button"
            title="Go on from here with other shots, as a new take (B)"
            onClick=${() => desk.branch(shot.shot_id)}
          >
            Branch
          </button>
          <button
            class="strong"
            title=${"Film this shot again, as a new take (R).\nUnchanged, it gets another seed."}
          >
            Retake
          </button>
        </div>`
      }
      <${Fault} desk=${desk} place=${`shot ${shot.shot_id}`} />
    </form>
    <${Cost} desk=${desk} />
  </section>`;
}

function queuedCard({ desk, shot, number, place, caption, setCaption }) {
  const { session, queue } = desk.state;
  const begins = place < 0;
  const keep = () => {
    const words = caption.trim();
    if (!words || words === shot.caption) return;
    if (begins) desk.fail(`shot ${shot.shot_id}`, { message: BEGINS });
    else desk.update(shot.shot_id, { caption: words });
  };
  const longer = (step) => desk.update(shot.shot_id, { chunks: Math.max(1, shot.chunks + step) });
  const disabled = !session.directs;
  const kind = begins ? "Beginning" : "Queued";
  return html`<section class="card" aria-label=${`${kind} shot ${number}`}>
    <h2>
      Shot ${number}<span class="row"
        >${begins ? "begins" : "queued"}
        ${
          !disabled &&
          !begins &&
          html`<button
              type="button"
              class="quiet"
              aria-label="Earlier"
              title="Earlier (Alt ←)"
              disabled=${place === 0}
              onClick=${() => desk.move(shot.shot_id, place - 1)}
            >
              ◂
            </button>
            <button
              type="button"
              class="quiet"
              aria-label="Later"
              title="Later (Alt →)"
              disabled=${place === queue.length - 1}
              onClick=${() => desk.move(shot.shot_id, place + 1)}
            >
              ▸
            </button>`
        }
      </span>
    </h2>
    <form onSubmit=${(event) => (event.preventDefault(), keep())}>
      <${Caption}
        desk=${desk}
        shot=${shot}
        value=${caption}
        onValue=${setCaption}
        onEnter=${keep}
      />
      ${
        !disabled &&
        html`<div class="row">
          <${Stepper}
            chunks=${shot.chunks}
            seconds=${shot.chunks * chunkSeconds(desk.state)}
            onStep=${longer}
          />
          <button
            type="button"
            disabled=${begins}
            onClick=${() => desk.remove(shot.shot_id)}
            title="Remove it (Delete)"
          >
            Remove
          </button>
          <button
            class="strong"
            disabled=${begins || !caption.trim() || caption.trim() === shot.caption}
          >
            Change
          </button>
        </div>`
      }
      <${Fault} desk=${desk} place=${`shot ${shot.shot_id}`} />
    </form>
  </section>`;
}

/** What the chunk under the playhead cost, stage by stage. */
function Cost({ desk }) {
  const { chunks, time } = desk.state;
  const chunk = at(chunks, time);
  if (!chunk) return null;
  const stages = Object.entries(chunk.timings).filter(([, seconds]) => seconds >= 0.001);
  const all = stages.reduce((sum, [, seconds]) => sum + seconds, 0) || 1;
  const place = `Chunk ${chunk.chunk}, take ${takeNumber(chunk.take_id)}`;
  return html`<div class="cost">
    <p>${place}: ${times(chunk.frames, "frame")} in ${short(all)}</p>
    <div class="bar" aria-hidden="true">
      ${stages.map(([name, seconds], i) => {
        const width = `${(100 * seconds) / all}%`;
        return html`<i key=${name} data-stage=${i} style=${{ width }}></i>`;
      })}
    </div>
    <ul>
      ${stages.map(([name, spent]) => html`<li key=${name}>${name} <b>${short(spent)}</b></li>`)}
    </ul>
  </div>`;
}

const short = (seconds) =>
  seconds < 0.1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(2)} s`;

function leave(event) {
  if (event.key === "Escape") event.currentTarget.blur();
}
