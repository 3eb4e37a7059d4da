// The whole page: what is made above, the timeline and the prompt line below.

import { listenToDrops } from "../drop.js";
import { html, useEffect } from "../ui.js";
import { Compare } from "./compare.js";
import { Fault } from "./error.js";
import { Help } from "./help.js";
import { Memory } from "./memory.js";
import { Prompt } from "./prompt.js";
import { ShotCard } from "./shot_card.js";
import { Stage } from "./stage.js";
import { Start } from "./start.js";
import { Takes } from "./takes.js";
import { Timeline } from "./timeline.js";
import { TopBar } from "./top_bar.js";

export function App({ desk }) {
  const { session, said, panel, global_caption } = desk.state;
  useEffect(() => listenToDrops(desk), []);
  return html`<div class="desk ${session ? "" : "empty"}">
    <${TopBar} desk=${desk} />
    <main>
      <${Stage} desk=${desk} />
      ${
        session
          ? html`<aside class="side" aria-label="Shot and takes">
              ${
                global_caption &&
                html`<p class="logline" title="Opens every shot's prompt">${global_caption}</p>`
              }
              <${ShotCard} desk=${desk} />
              <${Takes} desk=${desk} />
            </aside>`
          : html`<${Start} desk=${desk} />`
      }
    </main>
    ${
      session &&
      html`<section class="edit" aria-label="Timeline">
        <${Fault} desk=${desk} place="notice" />
        <${Timeline} desk=${desk} />
        <${Memory} desk=${desk} />
      </section>`
    }
    ${session?.directs && html`<${Prompt} desk=${desk} />`}
    ${panel === "help" && html`<${Help} desk=${desk} />`}
    ${panel === "compare" && html`<${Compare} desk=${desk} />`}
    <div class="unseen" role="status" aria-live="polite">${said}</div>
  </div>`;
}
