// A line of text with the words that the model knows offered under it as a combobox.

import { html, useMemo, useRef, useState } from "../ui.js";
import { offers, phrases, unknown } from "../words.js";

const MOST_NAMED = 4;

/** onValue(text); onEnter(event) where no offer is chosen; what else is given is the textarea's. */
export function WordsField({ value, onValue, words, onEnter, onKey, ...given }) {
  const known = useMemo(() => phrases(words), [words]);
  const [offered, setOffered] = useState([]);
  const [chosen, setChosen] = useState(-1);
  const field = useRef(null);
  const list = `${given.id}-words`;
  const close = () => (setOffered([]), setChosen(-1));

  const typed = (event) => {
    const { value: text, selectionStart } = event.currentTarget;
    const line = text.replace(/\s*\n\s*/g, " ");
    onValue(line);
    setOffered(offers(known, line.slice(0, selectionStart)));
    setChosen(-1);
  };
  const take = ({ text, from }) => {
    const box = field.current;
    const before = value.slice(0, from) + text;
    const after = value.slice(box.selectionStart);
    const space = after.startsWith(" ") || !after ? "" : " ";
    const whole = before + (after ? space + after : " ");
    onValue(whole);
    close();
    // The cursor follows the word, once the new value is drawn.
    requestAnimationFrame(() => {
      box.focus();
      box.setSelectionRange(before.length + 1, before.length + 1);
    });
  };
  const keys = (event) => {
    // Safari ends a composition before the Enter that commits it, whose code is 229.
    if (event.isComposing || event.keyCode === 229) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (offered.length && step)
      setChosen((chosen + step + offered.length + 1) % (offered.length + 1));
    else if (offered.length && event.key === "Tab" && !event.shiftKey)
      take(offered[chosen] ?? offered[0]);
    else if (event.key === "Enter" && offered[chosen]) take(offered[chosen]);
    else if (offered.length && event.key === "Escape") close();
    else if (event.key === "Enter" && onEnter) (close(), onEnter(event));
    else return onKey?.(event);
    event.preventDefault();
    event.stopPropagation();
  };
  const strange = unknown(words, value);
  return html`<div class="words-field">
    <textarea
      ...${given}
      ref=${field}
      rows=${given.rows ?? 1}
      value=${value}
      spellcheck=${!words}
      autocomplete="off"
      role="combobox"
      aria-autocomplete="list"
      aria-expanded=${offered.length > 0}
      aria-controls=${list}
      aria-activedescendant=${chosen >= 0 && offered[chosen] ? `${list}-${chosen}` : undefined}
      onInput=${typed}
      onKeyDown=${keys}
      onBlur=${close}
    ></textarea>
    ${
      strange.length > 0 &&
      html`<p class="strange">
        This model does not know ${" "}
        ${strange.slice(0, MOST_NAMED).map((word, i) => html`${i ? ", " : ""}<b>${word}</b>`)}
      </p>`
    }
    ${
      offered.length > 0 &&
      html`<ul class="offers" id=${list} role="listbox" aria-label="Words that this model knows">
        ${offered.map(
          (each, i) =>
            html`<li
              key=${each.text}
              id=${`${list}-${i}`}
              role="option"
              aria-selected=${i === chosen}
              onPointerDown=${(event) => (event.preventDefault(), take(each))}
            >
              ${each.text}<small>${each.kind}</small>
            </li>`,
        )}
      </ul>`
    }
  </div>`;
}
