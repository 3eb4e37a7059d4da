// What the film does now, how fast, and the files to take away.

import { clock, html, times } from "../ui.js";
import { saving } from "../save.js";
import { againOf } from "../state.js";
import { Fault } from "./error.js";
import { Menu } from "./menu.js";

const FILES = [
  ["film.mp4", "The film"],
  ["film.json", "The record: makes the same film again"],
  ["story.yaml", "The story: global caption and shots"],
  ["contact_sheet.png", "The contact sheet"],
];

const LINKS = {
  opening: "Connecting",
  lost: "Connection lost, trying again",
  refused: "No answer, trying again",
};
const ENDS = {
  stopped: "The director ended this film",
  idle: "Closed after a while without anyone here",
  lifetime: "Closed after its longest time",
  replaced: "Directed from another window",
  server: "The server was stopped",
  failed: "The film failed",
};

export function TopBar({ desk }) {
  const { session, panel } = desk.state;
  return html`<header class="top">
    <h1>Director’s desk</h1>
    ${session && html`<${Doing} desk=${desk} /><${Meters} desk=${desk} />`}
    <div class="tools">
      <${Fault} desk=${desk} place="save" />
      ${
        session &&
        html`<${Menu} desk=${desk} name="save" label="Save" title="Save this take (S)">
            ${FILES.map(
              ([file, what]) =>
                html`<button role="menuitem" onClick=${() => saving(desk, file)}>
                  <b>${file}</b
                  ><span>${desk.state.saving === file ? "Being written …" : what}</span>
                </button>`,
            )}
            <hr />
            <button role="menuitem" onClick=${() => share(desk)}>
              <b>Link to watch</b
              ><span>${desk.state.shared ?? "Copies an address that may only look"}</span>
            </button>
          <//>
          <button
            class="quiet"
            onClick=${() => desk.leave()}
            title="The film is kept; the start page lists it"
          >
            ${session.directs ? "New film" : "Leave"}
          </button>`
      }
      <button
        class="quiet key"
        aria-label="Keys"
        title="Keys (?)"
        aria-expanded=${panel === "help"}
        onClick=${() => desk.set({ panel: panel === "help" ? null : "help" })}
      >
        ?
      </button>
    </div>
  </header>`;
}

function Doing({ desk }) {
  const { link, done, status, playing, session, queue } = desk.state;
  if (done) {
    const again = () =>
      session.directs ? desk.reopen(session.resume_token) : desk.watch(session.watch_token);
    return html`<p class="doing ended" role="status" data-status="ended">
      ${ENDS[done.reason] ?? "Ended"}${done.reason === "failed" ? `: ${done.message}` : ""}
      <button onClick=${again}>
        ${againOf(desk.state)}
      </button>
    </p>`;
  }
  if (link !== "open") return html`<p class="doing" role="status" data-status="lost">${LINKS[link] ?? link}</p>`;
  const text = {
    making: "Filming",
    ahead: playing ? "Filming" : "Waits for the playhead",
    starved: queue.length ? "Filming" : "Waits for the next shot",
    paused: "Filming is paused",
    limit: `As long as a film may be, ${clock(session.limits.film_s, 0)}: retake, branch or begin another`,
    stopped: "Ended",
  }[status];
  return html`<p class="doing" data-status=${status === "ahead" && playing ? "making" : status}>
    ${text}
  </p>`;
}

function Meters({ desk }) {
  const { metrics, session, answer, lag, link } = desk.state;
  if (!metrics || link !== "open") return null;
  const seconds = (ms) => (ms < 950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
  return html`<dl class="meters">
    <div title="Video frames a second that the last chunks were made with">
      <dt>made at</dt>
      <dd>${metrics.fps.toFixed(1)} <small>of ${session.model.fps} fps</small></dd>
    </div>
    <div title="Film that is made and not yet shown">
      <dt>ahead</dt>
      <dd>${Math.max(0, metrics.lead_s).toFixed(1)} s</dd>
    </div>
    ${
      lag &&
      html`<div title="From a chunk's arrival to its first frame on the screen">
        <dt>lag</dt>
        <dd>${seconds(lag)}</dd>
      </div>`
    }
    ${
      answer &&
      html`<div title="From Enter to the new shot's first frame">
        <dt>last order</dt>
        <dd>${seconds(answer)}</dd>
      </div>`
    }
    ${
      metrics.turns_waiting > 1 &&
      html`<div>
        <dt>device</dt>
        <dd>${times(metrics.turns_waiting, "film")} take turns</dd>
      </div>`
    }
    ${
      metrics.viewers > 0 &&
      html`<div>
        <dt>watched by</dt>
        <dd>${metrics.viewers}</dd>
      </div>`
    }
    ${
      !session.directs &&
      html`<div>
        <dt>you</dt>
        <dd>watch</dd>
      </div>`
    }
  </dl>`;
}

async function share(desk) {
  const address = new URL(`./#watch=${desk.state.session.watch_token}`, location.href).href;
  try {
    await navigator.clipboard.writeText(address);
    desk.set({ shared: "Copied. The server's token is asked for too." });
  } catch {
    desk.set({ shared: address });
  }
}
