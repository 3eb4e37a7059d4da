"use strict";
// Pairs of films of one story, without their names, left and right by chance.

const QUESTIONS = {
  overall: "Which film is better?",
  characters: "In which film do the characters look the same in all shots?",
  captions: "Which film shows what its captions say?",
  motion: "Which film moves more naturally?",
};
const ANSWERS = { left: "Left", right: "Right", same: "No difference" };
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "same" };

function pairs() {
  const stories = new Map();
  for (const film of GALLERY.films) {
    const story = storyOf(film);
    stories.set(story, [...(stories.get(story) ?? []), film]);
  }
  const found = [];
  for (const [story, films] of stories) {
    if (story === "[]") continue; // films whose story nobody knows
    films.forEach((one, number) => {
      for (const other of films.slice(number + 1)) {
        found.push(Math.random() < 0.5 ? [one, other] : [other, one]);
      }
    });
  }
  return shuffled(found);
}

function storyOf(film) {
  return JSON.stringify([film.global, ...film.shots.map((shot) => shot.caption)].filter(Boolean));
}

function shuffled(items) {
  for (let last = items.length - 1; last > 0; last--) {
    const at = Math.floor(Math.random() * (last + 1));
    [items[last], items[at]] = [items[at], items[last]];
  }
  return items;
}

const voting = document.querySelector("dialog.voting");
const voteButton = document.querySelector("button.vote");
if (!pairs().length) {
  voteButton.disabled = true;
  voteButton.title = "Needs two films of the same story";
}

voteButton.addEventListener("click", () => {
  closeAll();
  const asked = pairs();
  const select = make(
    "select",
    { "aria-label": "Question" },
    ...Object.entries(QUESTIONS).map(([name, text]) => make("option", { value: name }, text)),
  );
  const begin = () => ask(asked, 0, select.value, []);
  voting.replaceChildren(
    make("h2", {}, "Blind vote"),
    make("p", {}, `${asked.length} ${asked.length === 1 ? "pair" : "pairs"} of films, each of the same story. Their names are shown in the file that you save.`),
    select,
    make("p", { class: "buttons" },
      make("button", { type: "button", class: "go", onclick: begin }, "Begin"),
      make("button", { type: "button", onclick: () => voting.close() }, "Close")),
  );
  voting.showModal();
});

function ask(asked, number, question, votes) {
  if (number === asked.length) return finish(question, votes);
  const pair = asked[number].map((film, side) =>
    new Player(film, { alone: false, label: Object.values(ANSWERS)[side] }));
  const step = inStep(pair);
  const since = performance.now();
  const leaving = new AbortController();
  const leave = () => {
    leaving.abort();
    step.stop();
  };
  const answer = (choice) => {
    leave();
    const [left, right] = asked[number].map((film) => film.title);
    const [left_system, right_system] = asked[number].map((film) => film.system);
    const seconds = Math.round((performance.now() - since) / 100) / 10;
    ask(asked, number + 1, question, [...votes, { left, right, left_system, right_system, choice, seconds }]);
  };
  voting.replaceChildren(
    make("h2", {}, QUESTIONS[question]),
    make("p", { class: "soft" }, `Pair ${number + 1} of ${asked.length}. ${pair[0].film.global}`),
    make("div", { class: "pair" }, ...pair.map((each) => make("section", {}, each.video, each.timeline))),
    pair[0].caption,
    step.element,
    make("p", { class: "buttons" },
      ...Object.entries(ANSWERS).map(([choice, text]) =>
        make("button", { type: "button", class: choice === "same" ? choice : `go ${choice}`, onclick: () => answer(choice) }, text)),
      make("button", { type: "button", onclick: () => (leave(), finish(question, votes)) }, "Stop here")),
  );
  const { signal } = leaving;
  // On the document: what had the focus is gone with the pair before.
  document.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.target.matches("input")) return;
    if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's: Alt ← goes back
    event.preventDefault();
    if (!event.repeat) answer(KEYS[event.key]); // a key that is held answers one pair
  }, { signal });
  // Escape keeps the votes, as "Stop here" does.
  voting.addEventListener("close", () => { leave(); if (votes.length) finish(question, votes); }, { once: true, signal });
  step.play();
}

function finish(question, votes) {
  const saved = { schema: "causalcine/votes@1", gallery: GALLERY.title, question, text: QUESTIONS[question], votes };
  const url = URL.createObjectURL(new Blob([JSON.stringify(saved, null, 2)], { type: "application/json" }));
  voting.replaceChildren(
    make("h2", {}, votes.length === 1 ? "One vote" : `${votes.length} votes`),
    make("ul", {}, ...votes.map(({ left, right, choice }) =>
      make("li", {}, choice === "same" ? `${left}, ${right}: no difference` : `${choice === "left" ? left : right} over ${choice === "left" ? right : left}`))),
    make("p", { class: "buttons" },
      make("a", { class: "button go", href: url, download: "votes.json" }, "Save votes.json"),
      make("button", { type: "button", onclick: () => voting.close() }, "Close")),
  );
  if (!voting.open) voting.showModal();
}
