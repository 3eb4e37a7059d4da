// Keys that work anywhere but in a field, and what the help says of all keys.

export const KEYS = [
  ["Write", [
    [["/"], "to the prompt line"],
    [["Enter"], "queue the shot"],
    [["Ctrl", "Enter"], "cut to it at the next chunk"],
    [["Tab"], "take the word that is offered"],
    [["↑"], "captions that were typed before"],
    [["Esc"], "leave the field"],
  ]],
  ["Look", [
    [["Space"], "play or pause"],
    [["←", "→"], "one second back or on"],
    [[",", "."], "one frame back or on"],
    [["↑", "↓"], "to the cut before or after"],
    [["Home"], "to the beginning"],
    [["L"], "to the newest frames"],
    [["M"], "to the retrieved frames"],
    [["+", "−"], "zoom the timeline"],
  ]],
  ["Direct", [
    [["C"], "cut to the next queued shot now"],
    [["H"], "pause filming, or go on"],
    [["R"], "retake this shot with another seed"],
    [["E"], "edit its caption; Enter films it"],
    [["B"], "branch where it begins"],
    [["X"], "takes side by side"],
    [["S"], "save"],
  ]],
  ["On a queued shot", [
    [["Q"], "to the first queued shot"],
    [["Alt", "← →"], "earlier or later"],
    [["Shift", "← →"], "shorter or longer"],
    [["Delete"], "remove"],
  ]],
]; // prettier-ignore

const HELD = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", ",", ".", "+", "-"]; // may repeat
const FIELDS = ".card input, .card textarea";
const GONE = { message: "The field that you typed in is gone. Press Esc, then keys direct again." };

const focus = (selector) => document.querySelector(selector)?.focus();

const LOOK = {
  " ": (desk) => (desk.state.playing ? desk.pause() : desk.play()),
  "?": (desk) => desk.set({ panel: "help" }),
  ArrowLeft: (desk) => step(desk, -1),
  ArrowRight: (desk) => step(desk, 1),
  ",": (desk) => frame(desk, -1),
  ".": (desk) => frame(desk, 1),
  ArrowUp: (desk) => desk.toCut(-1),
  ArrowDown: (desk) => desk.toCut(1),
  Home: (desk) => desk.seek(0),
  End: (desk) => desk.live(),
  l: (desk) => desk.live(),
  m: () => focus(".memory button"),
  q: () => focus(".queued button.shot"),
  "+": (desk) => desk.set({ zoom: Math.min(8, (desk.state.zoom ?? 1) * 1.5) }),
  "-": (desk) => desk.set({ zoom: Math.max(1, (desk.state.zoom ?? 1) / 1.5) }),
  x: (desk) => desk.state.takes.length > 1 && desk.set({ panel: "compare" }),
  s: (desk) => desk.set({ panel: "save" }),
  Escape: (desk) => desk.set({ panel: null, selected: null }),
};

const DIRECT = {
  "/": () => focus("#prompt"),
  i: () => focus("#prompt"),
  e: () => focus("#caption"),
  h: (desk) => desk.pauseFilming(),
  c: (desk) => desk.cutNow(null, "notice"),
  r: (desk) => desk.shot && desk.retake(desk.shot.shot_id),
  b: (desk) => desk.shot && desk.branch(desk.shot.shot_id),
};

const step = (desk, seconds) => desk.seek(desk.player.video.currentTime + seconds);

/** A frame on, to its middle: at its very edge a player may show the one before. */
function frame(desk, direction) {
  const { fps } = desk.state.session.model;
  desk.pause();
  desk.seek((Math.floor(desk.player.video.currentTime * fps + 1e-3) + direction + 0.5) / fps);
}

/** Whether the field that had the focus was removed, so that what is typed must not be orders. */
function watchFields() {
  let field = null;
  addEventListener("focusin", ({ target }) => (field = target.matches(FIELDS) ? target : null));
  addEventListener("pointerdown", () => (field = null), { capture: true });
  // Browsers differ in whether a field that is removed loses the focus with an event, or before it.
  addEventListener("focusout", ({ target }) =>
    queueMicrotask(() => {
      if (field === target && target.isConnected) field = null;
    }),
  );
  return {
    get removed() {
      return field !== null && !field.isConnected;
    },
    forget: () => (field = null),
  };
}

export function listenToKeys(desk) {
  const fields = watchFields();
  addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (fields.removed) {
      if (key !== "Escape") return desk.fail("notice", GONE);
      fields.forget();
      desk.clear("notice");
    }
    if (target.closest("input:not([type=checkbox]), textarea, dialog, [role=menu]")) return;
    if (key === "?") return act(event, LOOK["?"]);
    if (!desk.state.session) return;
    // Space and Enter press the button that has the focus.
    if (key === " " && target.closest("button, input")) return;
    const name = key.length === 1 ? key.toLowerCase() : key;
    const order = LOOK[name] ?? (desk.state.session.directs && DIRECT[name]);
    if (order && event.repeat && !HELD.includes(name)) return event.preventDefault();
    if (order) act(event, order);
  });
  const act = (event, order) => {
    event.preventDefault();
    order(desk);
  };
}
