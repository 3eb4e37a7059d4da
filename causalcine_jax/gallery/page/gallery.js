"use strict";
// Classic scripts, which share their names: from a file:// address browsers load no modules.

/** An element: make("p", {class: "soft", onclick: f}, "text", child). Text is never read as HTML. */
function make(tag, fields = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== "" && child !== false));
  return element;
}

const clock = (seconds) =>
  `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

/** Where a film's file is: beside the page, or within it, as in a notebook. */
const address = (film, name) => film.files?.[name] ?? `${film.folder}/${name}`;

/** The last of `items`, in order of first_frame, that has begun at that video frame. */
const begunAt = (items, frame) => items.findLast((each) => each.first_frame <= frame + 0.5);

// Only one card's video holds its film: phones have few decoders.
let open = null;

function close(player) {
  player.at = player.video.currentTime;
  player.video.pause();
  player.video.removeAttribute("src");
  player.video.load();
  if (open === player) open = null;
}

/** A film with its timeline, caption and retrieved frames. */
class Player {
  constructor(film, { alone = true, label = film.title } = {}) {
    this.film = film;
    this.alone = alone;
    this.at = 0;
    this.video = make("video", {
      muted: true,
      playsinline: true,
      loop: alone,
      preload: "none",
      poster: address(film, "poster.webp"),
      width: film.width,
      height: film.height,
      "aria-label": label,
    });
    this.video.muted = true;
    this.caption = make("p", { class: "caption" });
    this.memory = make("div", { class: "memory" });
    this.head = make("i", { class: "head" });
    this.shots = film.shots.map((shot, number) =>
      make("button", {
        type: "button",
        class: "shot",
        style: `flex-grow: ${shot.frames}`,
        title: shot.caption,
        "aria-label": `Shot ${number + 1}: ${shot.caption}`,
        onclick: () => this.seek(shot.first_frame),
      }, String(number + 1)),
    );
    this.timeline = make("div", { class: "timeline" }, ...this.shots, this.head);
    for (const name of ["timeupdate", "seeked", "loadedmetadata"]) {
      this.video.addEventListener(name, () => this.draw());
    }
    this.video.addEventListener("playing", () => this.follow());
    this.draw();
  }

  get seconds() {
    return this.film.frames / this.film.fps;
  }

  get playing() {
    return !this.video.paused;
  }

  load() {
    if (this.video.hasAttribute("src")) return;
    if (this.alone) {
      if (open) close(open);
      open = this;
    }
    this.video.src = address(this.film, "film.mp4");
    this.video.currentTime = this.at;
  }

  play() {
    this.load();
    return this.video.play().catch(() => {}); // it was paused again, or may not start by itself
  }

  pause() {
    this.video.pause();
  }

  /** To a video frame: into its middle, so that it is this one that is shown. */
  seek(frame) {
    this.load();
    this.video.currentTime = (frame + 0.5) / this.film.fps;
  }

  /** Every picture while it plays: timeupdate comes four times a second. */
  follow() {
    if (!this.playing) return;
    this.draw();
    requestAnimationFrame(() => this.follow());
  }

  draw() {
    const frame = this.video.currentTime * this.film.fps;
    this.head.style.left = `${(100 * Math.min(frame, this.film.frames)) / this.film.frames}%`;
    const shot = begunAt(this.film.shots, frame) ?? this.film.shots[0];
    if (shot !== this.shot) {
      this.shot = shot;
      this.caption.textContent = shot.caption;
      this.shots.forEach((each, number) =>
        each.classList.toggle("now", this.film.shots[number] === shot),
      );
    }
    const chunk = begunAt(this.film.retrieved, frame);
    if (chunk !== this.chunk) {
      this.chunk = chunk;
      this.memory.replaceChildren(...(chunk?.frames ?? []).map((each) => this.retrieved(each)));
    }
  }

  retrieved({ place, frame, share }) {
    const { columns, width, height } = this.film.sheet;
    const x = -width * (place % columns);
    const y = -height * Math.floor(place / columns);
    const percent = Math.round(100 * share);
    const from = clock(frame / this.film.fps);
    return make("button", {
      type: "button",
      title: `From ${from}, retrieved by ${percent} % of the layers`,
      "aria-label": `Retrieved frame at ${from}`,
      style:
        `width: ${width}px; height: ${height}px; --share: ${percent}%;` +
        `background-image: url("${address(this.film, "retrieved.webp")}");` +
        `background-position: ${x}px ${y}px`,
      onclick: () => this.seek(frame),
    });
  }
}

const films = GALLERY.films.length;
const players = [];
const chosen = []; // cards that shall be compared, at most two

function card(film) {
  const player = new Player(film);
  players.push(player);
  const toggle = () => (player.playing ? player.pause() : player.play());
  player.video.addEventListener("click", () => {
    player.wanted = !player.playing;
    toggle();
  });
  const facts = film.facts.flatMap(([name, value]) => [
    make("dt", {}, name),
    make("dd", { title: value }, value),
  ]);
  const tick = make("input", { type: "checkbox", onchange: () => choose(player, tick) });
  const remembers = film.retrieved.length > 0;
  return make(
    "article",
    { class: "card" },
    make("div", { class: "stage", tabindex: 0, onkeydown: (event) => keys(event, player, toggle) },
      player.video),
    player.timeline,
    make("div", { class: "told" },
      film.title && make("h2", { title: film.title }, film.title),
      film.global && make("p", { class: "global" }, film.global),
      player.caption,
      remembers && make("p", { class: "label" }, "Retrieved for these frames"),
      remembers && player.memory,
      make("dl", {}, ...facts),
      make("p", { class: "links" },
        make("label", { hidden: films === 1 }, tick, "compare"),
        make("a", { href: address(film, "film.mp4"), download: "film.mp4" }, "film.mp4"),
        film.record && make("a", { href: `${film.folder}/film.json` }, "film.json"),
      ),
    ),
  );
}

function keys(event, player, toggle) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === " " || event.key === "Enter") toggle();
  else if (step) player.seek(Math.max(0, Math.round(player.video.currentTime * player.film.fps - 0.5) + step));
  else return;
  event.preventDefault();
}

function choose(player, tick) {
  const at = chosen.findIndex((each) => each.player === player);
  if (at >= 0) chosen.splice(at, 1);
  if (tick.checked) chosen.push({ player, tick });
  if (chosen.length > 2) chosen.shift().tick.checked = false;
  document.querySelector("button.compare").disabled = chosen.length !== 2;
}

/** The card that is seen best plays; others stop. Nothing starts by itself where motion is unwanted. */
function playWhatIsSeen(cards) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const seen = new Map();
  const look = new IntersectionObserver(
    (entries) => {
      for (const { target, intersectionRatio } of entries) seen.set(target, intersectionRatio);
      const [best, ratio] = [...seen].reduce((a, b) => (b[1] > a[1] ? b : a));
      cards.forEach((element, number) => {
        const player = players[number];
        if (element === best && ratio > 0.5 && player.wanted !== false) player.play();
        else if (player.playing && !player.wanted) player.pause();
      });
    },
    { threshold: [0, 0.25, 0.5, 0.75, 1] },
  );
  for (const element of cards) look.observe(element);
}

function closeAll() {
  for (const player of players) if (player.video.hasAttribute("src")) close(player);
}

document.title = GALLERY.title;
document.querySelector("h1").textContent = GALLERY.title;
if (!GALLERY.title) document.querySelector(".top").classList.add("none");
for (const button of document.querySelectorAll(".top button")) button.hidden = films === 1;
document.querySelector(".count").textContent = films === 1 ? "one film" : `${films} films`;
const cards = GALLERY.films.map(card);
document.querySelector("main").append(...cards);
playWhatIsSeen(cards);
