// Takes side by side, in step: each in a player of its own, from the cut where they part.

import { html, useEffect, useRef, useState } from "../ui.js";
import { Player } from "../player.js";
import { firstFrame } from "../scale.js";
import { ownerOf, parting, takeNumber } from "../state.js";
import { Dialog } from "./dialog.js";
import { Fault } from "./error.js";
import { whyOf } from "./takes.js";

const DRIFT = 0.08; // seconds that two pictures may be apart
const BEFORE = 0.5; // seconds of the common part that lead in

export function Compare({ desk }) {
  const { takes, take_id, compared, session } = desk.state;
  const current = takes.find((take) => take.take_id === take_id);
  // Without a choice: this take and the one that it came from, or the newest other.
  const other = current.parent ?? takes.findLast((take) => take.take_id !== take_id)?.take_id;
  const ids = compared.length > 1 ? compared : [other, take_id];
  const shown = takes.filter((take) => ids.includes(take.take_id));
  const { model } = session;
  const from = Math.max(0, firstFrame(model, parting(takes, ids)) / model.fps - BEFORE);
  const until = Math.max(...shown.map((take) => take.seconds));
  const players = useRef(new Map());
  const slider = useRef(null);
  const [running, setRunning] = useState(true);

  useEffect(() => {
    const { playing } = desk.state;
    desk.pause();
    let id = 0;
    const step = () => {
      id = requestAnimationFrame(step);
      const all = [...players.current.values()].filter((player) => player.ready);
      const [lead] = all.toSorted((a, b) => b.until - a.until);
      if (!lead) return;
      slider.current.value = lead.video.currentTime;
      if (lead.video.currentTime >= lead.until - 0.07) for (const each of all) each.seek(from);
      for (const each of all) {
        if (
          each !== lead &&
          Math.abs(each.video.currentTime - lead.video.currentTime) > DRIFT &&
          lead.video.currentTime < each.until
        ) {
          each.seek(lead.video.currentTime);
        }
      }
    };
    step();
    return () => {
      cancelAnimationFrame(id);
      if (playing) desk.play();
    };
  }, [from]);
  const toggle = () => {
    for (const { video } of players.current.values()) running ? video.pause() : video.play();
    setRunning(!running);
  };
  const seek = (event) => {
    for (const player of players.current.values()) player.seek(Number(event.currentTarget.value));
  };
  // Space presses the control that has the focus.
  const keys = (event) => {
    if (event.key !== " " || event.target.closest("button, input")) return;
    event.preventDefault();
    if (!event.repeat) toggle();
  };
  return html`<${Dialog}
    desk=${desk}
    name="compare"
    label="Takes side by side"
    wide
    onKey=${keys}
  >
    <${Fault} desk=${desk} place="compare" />
    <div class="compare" data-count=${shown.length}>
      ${shown.map(
        (take) =>
          html`<figure key=${take.take_id}>
            <${Copy} desk=${desk} take=${take} from=${from} players=${players.current} />
            <figcaption>
              <b>${nameOf(take)}</b> <span>${whyOf(desk, take)}</span>
              ${
                session.directs &&
                html`<button
                  disabled=${take.take_id === take_id}
                  onClick=${() => (desk.openTake(take.take_id), desk.set({ panel: null }))}
                >
                  ${take.take_id === take_id ? "This one is filmed" : "Go on with it"}
                </button>`
              }
            </figcaption>
          </figure>`,
      )}
    </div>
    <div class="row">
      <button autofocus onClick=${toggle}>${running ? "Pause" : "Play"}</button>
      <input
        type="range"
        ref=${slider}
        aria-label="Time"
        min=${from}
        max=${until}
        step="0.05"
        onInput=${seek}
      />
    </div>
  <//>`;
}

const nameOf = (take) => `Take ${takeNumber(take.take_id)}`;

/** One take's film from `from` on. */
function Copy({ desk, take, from, players }) {
  const box = useRef(null);
  useEffect(() => {
    let gone = false;
    const video = box.current;
    const fetchChunk = (key, chunk) => desk.fetchMedia(`takes/${key}/chunks/${chunk}`);
    const fail = (message) => desk.fail("compare", { message });
    const player = new Player(video, fetchChunk, fail);
    player.until = take.seconds;
    players.set(take.take_id, player);
    const open = async () => {
      const header = await desk.fetchMedia("header.mp4");
      if (gone) return;
      player.want(lineOf(desk.state, take));
      await player.init(desk.state.media.mime, header);
      player.seek(from);
      video.play().catch(() => {});
    };
    open().catch(({ message }) => gone || fail(`${nameOf(take)} cannot be played: ${message}`));
    return () => {
      gone = true;
      players.delete(take.take_id);
      player.clear();
      desk.clear("compare");
    };
  }, [take.take_id]);
  const { media } = desk.state;
  return html`<video
    ref=${box}
    style=${{ aspectRatio: `${media.width} / ${media.height}` }}
    aria-label=${nameOf(take)}
  ></video>`;
}

/** All chunks of a take: their places follow from the model's chunk. */
function lineOf({ takes, session }, take) {
  const { model } = session;
  return Array.from({ length: take.chunks }, (_, chunk) => ({
    chunk,
    key: ownerOf(takes, take.take_id, chunk),
    time_s: firstFrame(model, chunk) / model.fps,
    seconds: (firstFrame(model, chunk + 1) - firstFrame(model, chunk)) / model.fps,
  }));
}
