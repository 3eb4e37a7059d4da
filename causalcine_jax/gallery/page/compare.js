"use strict";

const APART = 0.04; // seconds that two films may be apart before one is moved

/** Plays two films in step: the first leads. Returns {element, play, stop}. */
function inStep(players) {
  const [lead, other] = players;
  const longest = Math.max(...players.map((each) => each.seconds));
  const slider = make("input", {
    type: "range", min: 0, max: longest, step: 0.01, value: 0, "aria-label": "Time",
    oninput: () => players.forEach((each) => (each.video.currentTime = Number(slider.value))),
  });
  const button = make("button", { type: "button", onclick: () => toggle() }, "Pause");
  const time = make("output", {});
  let running = false;
  let stopped = false;

  function toggle(on = !running) {
    running = on;
    button.textContent = running ? "Pause" : "Play";
    for (const each of players) running ? each.play() : each.pause();
    if (running) follow();
  }

  function follow() {
    if (stopped || !running) return;
    const now = Math.max(...players.map((each) => each.video.currentTime));
    slider.value = now;
    time.value = `${clock(now)} of ${clock(longest)}`;
    if (players.every((each) => each.video.ended)) {
      players.forEach((each) => (each.video.currentTime = 0));
      players.forEach((each) => each.play());
    } else if (!lead.video.ended && !other.video.ended) {
      const gap = other.video.currentTime - lead.video.currentTime;
      if (Math.abs(gap) > APART && !other.video.seeking) {
        other.video.currentTime = lead.video.currentTime;
      }
    }
    requestAnimationFrame(follow);
  }

  const element = make("div", { class: "steps" }, button, slider, time);
  return {
    element,
    toggle,
    play: () => toggle(true),
    stop: () => {
      stopped = true;
      for (const each of players) close(each);
    },
  };
}

document.querySelector("button.compare").addEventListener("click", () => {
  closeAll();
  const dialog = document.querySelector("dialog.comparing");
  const pair = chosen.map(({ player }) => new Player(player.film, { alone: false }));
  const step = inStep(pair);
  const side = (player) =>
    make("section", {}, make("h2", {}, player.film.title), player.video, player.timeline, player.caption, player.memory);
  dialog.replaceChildren(
    make("div", { class: "pair" }, ...pair.map(side)),
    step.element,
    make("button", { type: "button", class: "end", onclick: () => dialog.close() }, "Close"),
  );
  dialog.addEventListener("close", step.stop, { once: true });
  dialog.showModal();
  step.play();
});
