// All takes of the film, as a tree: which came from which, and where it left.

import { clock, html } from "../ui.js";
import { firstFrame } from "../scale.js";
import { takeNumber } from "../state.js";
import { Fault } from "./error.js";

const INTO = 2; // frames into a take's first own chunk, where its picture is taken

export function Takes({ desk }) {
  const { takes, take_id, session, compared } = desk.state;
  const mark = (id) =>
    desk.set({
      compared: compared.includes(id)
        ? compared.filter((each) => each !== id)
        : [...compared, id].slice(-4),
    });
  return html`<section class="takes" aria-label="Takes">
    <h2>
      Takes
      <button
        class="quiet"
        disabled=${takes.length < 2}
        title="See takes side by side (X)"
        onClick=${() => desk.set({ panel: "compare" })}
      >
        Compare${compared.length > 1 ? ` ${compared.length}` : ""}
      </button>
    </h2>
    <${Fault} desk=${desk} place="takes" />
    <ul>
      ${walked(takes).map(({ take, depth }) => {
        const current = take.take_id === take_id;
        const picture = pictureOf(desk, take);
        return html`<li
          key=${take.take_id}
          class=${current ? "current" : ""}
          style=${{ paddingLeft: `${Math.min(depth, 5) * 14}px` }}
        >
          <button
            class="take"
            aria-current=${current}
            disabled=${!session.directs && !current}
            data-take=${take.take_id}
            title=${current ? "This take is shown" : "Go on with this take"}
            onClick=${() => desk.openTake(take.take_id)}
          >
            ${picture ? html`<img src=${picture} alt="" />` : html`<span class="blank"></span>`}
            <span><b>Take ${takeNumber(take.take_id)}</b><small>${whyOf(desk, take)}</small></span>
            <span class="mono">${clock(take.seconds)}</span>
          </button>
          ${
            takes.length > 1 &&
            html`<input
              type="checkbox"
              aria-label=${`Compare take ${takeNumber(take.take_id)}`}
              title="Compare"
              checked=${compared.includes(take.take_id)}
              onChange=${() => mark(take.take_id)}
            />`
          }
        </li>`;
      })}
    </ul>
  </section>`;
}

/** Takes in the order of the tree: children under their parents, oldest first. */
function walked(takes, parent = null, depth = 0) {
  return takes
    .filter((take) => (take.parent ?? null) === parent)
    .flatMap((take) => [{ take, depth }, ...walked(takes, take.take_id, depth + 1)]);
}

/** A take is known by its first own frames; before there are any, by what they follow. */
function pictureOf(desk, take) {
  const chunk = Math.min(take.first_chunk, take.chunks - 1);
  return chunk < 0
    ? null
    : desk.picture(firstFrame(desk.state.session.model, chunk) + INTO, take.take_id);
}

export function whyOf(desk, take) {
  if (take.why === "start") return "from the beginning";
  const { model } = desk.state.session;
  return `${take.why} at ${clock(firstFrame(model, take.first_chunk) / model.fps)}`;
}
