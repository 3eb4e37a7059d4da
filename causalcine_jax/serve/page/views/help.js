// All keys, and a few words on how the desk works.

import { html } from "../ui.js";
import { KEYS } from "../keys.js";
import { Dialog } from "./dialog.js";

export function Help({ desk }) {
  return html`<${Dialog} desk=${desk} name="help" label="Keys">
    <div class="keys">
      ${KEYS.map(
        ([group, keys]) =>
          html`<section>
            <h3>${group}</h3>
            <dl>
              ${keys.map(
                ([names, what]) =>
                  html`<div>
                    <dt>${names.map((name) => html`<kbd>${name}</kbd>`)}</dt>
                    <dd>${what}</dd>
                  </div>`,
              )}
            </dl>
          </section>`,
      )}
    </div>
    <p class="hint">
      A shot begins at the next chunk. A chunk is filmed just before it is played, so what you
      type is soon seen. Retakes and branches are new takes: nothing is lost.
    </p>
  <//>`;
}
