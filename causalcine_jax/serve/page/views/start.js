// Before a film: what holds for all shots, or a story to film; and films to go on with.

import { html, useEffect, useState } from "../ui.js";
import { films, forgetFilm } from "../films.js";
import { load } from "../drop.js";
import { Fault } from "./error.js";
import { Seed, seedOf } from "./fields.js";
import { WordsField } from "./words_field.js";

const WHEN = { dateStyle: "medium", timeStyle: "short" };

export function Start({ desk }) {
  const { opening, position, words } = desk.state;
  const [line, setLine] = useState("");
  const [seed, setSeed] = useState("");
  const [hold, setHold] = useState(false);
  const [model, setModel] = useState(null);
  const [kept, setKept] = useState(films);
  useEffect(() => {
    // Its words are offered here too. Without an answer the form is as good.
    fetch("v1/model")
      .then((answer) => (answer.ok ? answer.json() : null))
      .then((told) => told && (setModel(told), desk.set({ words: told.words })))
      .catch(() => {});
  }, []);
  if (opening || position) return null;
  const begin = () =>
    desk.begin({
      ...(line.trim() && { global_caption: line.trim() }),
      ...seedOf(seed),
      on_empty: hold ? "hold" : "wait",
    });
  const forget = (token) => (forgetFilm(token), setKept(films()));
  const choose = ({ currentTarget: input }) => {
    const [file] = input.files;
    input.value = ""; // else the same file, mended, could not be chosen again
    if (file) load(desk, file);
  };
  const example = model?.example;
  return html`<section class="start" aria-label="New film">
    <form onSubmit=${(event) => (event.preventDefault(), begin())}>
      <h2>A new film</h2>
      <label for="global">What holds for every shot</label>
      <${WordsField}
        id="global"
        rows="3"
        value=${line}
        words=${words}
        onValue=${setLine}
        onEnter=${begin}
        placeholder=${example?.global ?? "Who plays. It opens every shot's prompt."}
        maxLength="2000"
        autofocus
      />
      <div class="row">
        <${Seed} value=${seed} onValue=${setSeed} otherwise="random" />
        <label class="check"
          ><input
            type="checkbox"
            checked=${hold}
            onChange=${(event) => setHold(event.currentTarget.checked)}
          />
          when no shot is queued, the last one goes on</label
        >
      </div>
      <${Fault} desk=${desk} place="start" />
      <div class="row ends">
        <button class="go">Begin</button>
        ${
          example &&
          html`<button type="button" onClick=${() => desk.begin({ story: example })}>
            Film an example
          </button>`
        }
        <label class="file"
          >Open a story<input
            type="file"
            class="unseen"
            accept=".json,.yaml,.yml"
            onChange=${choose}
        /></label>
      </div>
      <p class="hint">A story.yaml or film.json can also be dropped anywhere on the page.</p>
    </form>
    ${
      kept.length > 0 &&
      html`<div class="kept">
        <h2>Your films</h2>
        <ul>
          ${kept.map(
            (film) =>
              html`<li key=${film.token}>
                <button class="take" onClick=${() => desk.reopen(film.token)}>
                  <span
                    ><b>${film.title || "Untitled"}</b
                    ><small
                      >${new Date(film.seen).toLocaleString([], WHEN)}, seed ${film.seed}</small
                    ></span
                  >
                </button>
                <button
                  class="quiet"
                  aria-label=${`Forget ${film.title || "this film"}`}
                  title="Forget it; its files stay on the server"
                  onClick=${() => forget(film.token)}
                >
                  ×
                </button>
              </li>`,
          )}
        </ul>
      </div>`
    }
  </section>`;
}
