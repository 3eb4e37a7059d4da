// The next shot: type it, Enter queues it, Ctrl and Enter cuts to it at the next chunk.

import { html, useEffect, useState } from "../ui.js";
import { chunkSeconds } from "../scale.js";
import { comingOf } from "../state.js";
import { Fault } from "./error.js";
import { Seed, seedOf, Stepper } from "./fields.js";
import { WordsField } from "./words_field.js";

const LONGEST = 40; // chunks that the stepper offers

export function Prompt({ desk }) {
  const { session, shots, unsent, words, errors, done } = desk.state;
  const [text, setText] = useState("");
  const [chunks, setChunks] = useState(4);
  const [seed, setSeed] = useState("");
  const [back, setBack] = useState(0); // how far back in what was typed before
  // Who just began a film goes on to type its first shot.
  useEffect(() => session.resumed || document.getElementById("prompt").focus(), []);
  const all = [...shots, ...comingOf(desk.state)];
  const said = [...all.map((shot) => shot.caption), ...unsent];

  const send = (cut) => {
    const caption = text.trim();
    if (!caption) return cut && desk.cutNow();
    const shot = { caption, chunks, ...seedOf(seed) };
    // The line is emptied at once, and filled again if the server refuses.
    const event = cut ? desk.cutNow(shot) : desk.append(shot);
    if (event) desk.onRefused(event, () => setText((now) => now || caption));
    if (event) setText("");
    setBack(0);
  };
  const enter = (event) => send(event.ctrlKey || event.metaKey);
  const keys = (event) => {
    const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (event.key === "Escape") event.currentTarget.blur();
    else if (step && (!text || back)) {
      const now = Math.max(0, Math.min(said.length, back + step));
      setBack(now);
      setText(now ? said.at(-now) : "");
    } else return;
    event.preventDefault();
  };
  return html`<form
    class="prompt"
    aria-label="Next shot"
    onSubmit=${(event) => (event.preventDefault(), send(false))}
  >
    <${Fault} desk=${desk} place="prompt" />
    <div class="line">
      <label class="number" for="prompt" aria-label="Caption of the next shot"
        >${all.length + 1}</label
      >
      <${WordsField}
        id="prompt"
        value=${text}
        words=${words}
        onValue=${(value) => (setText(value), setBack(0), desk.clear("prompt"))}
        onEnter=${enter}
        onKey=${keys}
        placeholder=${shots.length ? "The next shot" : "The first shot: who does what, where"}
        maxLength=${session.limits.caption_characters}
        aria-invalid=${Boolean(errors.prompt)}
        enterkeyhint="send"
        disabled=${Boolean(done)}
      />
      <${Stepper}
        chunks=${chunks}
        seconds=${chunks * chunkSeconds(desk.state)}
        onStep=${(by) => setChunks(Math.min(LONGEST, Math.max(1, chunks + by)))}
      />
      <${Seed}
        value=${seed}
        onValue=${setSeed}
        otherwise=${session.seed}
        title="Seed of the shot's noise; empty: the film's"
      />
      <button
        type="button"
        title="Cut to it at the next chunk (Ctrl Enter)"
        disabled=${!text.trim()}
        onClick=${() => send(true)}
      >
        Cut to
      </button>
      <button class="go" disabled=${!text.trim()} title="Queue it">Add<kbd>↵</kbd></button>
    </div>
    <p class="keys-hint" aria-hidden="true">
      <kbd>Enter</kbd> queues it <kbd>Ctrl Enter</kbd> cuts to it <kbd>Esc</kbd> leaves the line
      <kbd>/</kbd> comes back <kbd>?</kbd> all keys
    </p>
  </form>`;
}
