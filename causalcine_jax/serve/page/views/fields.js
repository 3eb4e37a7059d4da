// Small fields that several forms have.

import { html, times } from "../ui.js";

/** A length in chunks, shown in seconds; onStep(-1 or 1). */
export function Stepper({ chunks, seconds, onStep }) {
  const step = (by, label, sign) =>
    html`<button type="button" class="quiet" aria-label=${label} onClick=${() => onStep(by)}>
      ${sign}
    </button>`;
  return html`<span class="stepper" title="Length of the shot">
    ${step(-1, "Shorter", "−")}
    <output aria-label=${`Length: ${times(chunks, "chunk")}`}>
      ${seconds.toFixed(2).replace(/0$/, "")} s
    </output>
    ${step(1, "Longer", "+")}
  </span>`;
}

/** A seed as text, of digits alone; empty where none is given. */
export function Seed({ value, onValue, otherwise, title }) {
  return html`<label class="seed" title=${title}>
    seed
    <input
      inputmode="numeric"
      size="10"
      maxlength="10"
      placeholder=${otherwise}
      value=${value}
      onInput=${(event) => {
        const digits = event.currentTarget.value.replace(/\D/g, "");
        event.currentTarget.value = digits; // a refused letter changes no state, so nothing draws
        onValue(digits);
      }}
    />
  </label>`;
}

/** The seed as a message has it: nothing where none is given. */
export const seedOf = (value) => (value === "" ? {} : { seed: Number(value) });
