// Begins the page: one video element for the film's life, one desk, and a drawing for every change.

import { resumeHere } from "./desk.js";
import { Director } from "./director.js";
import { listenToKeys } from "./keys.js";
import { html, render } from "./ui.js";
import { App } from "./views/app.js";

const video = document.createElement("video");
video.className = "film";
video.tabIndex = -1;
video.setAttribute("aria-label", "The film");

const desk = new Director(video);
const root = document.getElementById("desk");
let asked = false;

function draw() {
  asked = false;
  render(html`<${App} desk=${desk} />`, root);
}

desk.subscribe(() => {
  // Several messages of one moment are one drawing.
  if (!asked) requestAnimationFrame(draw);
  asked = true;
});
// Hidden tabs have no animation frames: without this the page is stale when it is shown again.
document.addEventListener("visibilitychange", draw);

// The playhead itself is moved by the timeline; the rest needs to know only at which chunk it is.
setInterval(() => {
  const { chunks, time } = desk.state;
  const now = video.currentTime;
  const chunk = chunks.findLast((each) => each.time_s <= now + 1e-3);
  const before = chunks.findLast((each) => each.time_s <= time + 1e-3);
  if (chunk !== before || Math.abs(now - time) > 1) desk.set({ time: now });
}, 60);

listenToKeys(desk);
draw();
resumeHere(desk);
