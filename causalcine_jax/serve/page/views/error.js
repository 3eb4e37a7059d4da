// What the server refused, shown where it was asked: the rule, and the field at fault.

import { html } from "../ui.js";

export function Fault({ desk, place }) {
  const error = desk.state.errors[place];
  if (!error) return null;
  return html`<div class="fault" role="alert">
    <span>${error.message}${error.field ? html`<code>${error.field}</code>` : null}</span>
    <button class="quiet" aria-label="Dismiss" onClick=${() => desk.clear(place)}>×</button>
  </div>`;
}
