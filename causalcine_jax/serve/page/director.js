// What a director does: orders to the server, and moves of the playhead.

import { Desk } from "./desk.js";
import { plan } from "./scale.js";
import { at, comingOf, madeOf } from "./state.js";

export class Director extends Desk {
  // --- what a director does ---

  append(shot, place = "prompt") {
    const { planned, begun, blocks } = plan(this.state);
    const event = this.send({ type: "shot.append", shot }, place);
    // Behind other shots it waits for them, which says nothing about the desk.
    if (event && !planned && !begun && !blocks.length) this.stopwatch.sent(event);
    return event;
  }

  cutNow(shot, place = "prompt") {
    const event = this.send({ type: "shot.cut_now", ...(shot && { shot }) }, place);
    if (event) this.stopwatch.sent(event);
    this.play();
    return event;
  }

  /** Pauses filming, or goes on; the picture plays on. */
  pauseFilming() {
    const paused = this.state.status === "paused";
    this.send({ type: paused ? "session.resume" : "session.pause" }, "notice");
  }

  /** Films a shot again; change: {caption?, seed?}, neither: with another seed. */
  retake(shot_id, change = {}) {
    this.send({ type: "retake", shot_id, ...change }, `shot ${shot_id}`);
  }

  branch(shot_id) {
    this.send({ type: "branch", shot_id }, `shot ${shot_id}`);
  }

  openTake(take_id) {
    if (take_id !== this.state.take_id) this.send({ type: "take.open", take_id }, "takes");
  }

  update(shot_id, change) {
    this.send({ type: "shot.update", shot_id, ...change }, `shot ${shot_id}`);
  }

  remove(shot_id) {
    this.send({ type: "shot.remove", shot_id }, `shot ${shot_id}`);
    if (this.state.selected === shot_id) this.set({ selected: null });
  }

  /** Puts a queued shot at a place among the queued ones, from 0. Returns nothing if it is there. */
  move(shot_id, place) {
    const ids = this.state.queue.map((shot) => shot.shot_id);
    const from = ids.indexOf(shot_id);
    const to = Math.max(0, Math.min(ids.length - 1, place));
    if (from < 0 || from === to) return;
    ids.splice(to, 0, ...ids.splice(from, 1));
    return this.send({ type: "shot.reorder", shot_ids: ids }, `shot ${shot_id}`);
  }

  // --- playback ---

  play() {
    this.set({ playing: true });
    this.player.video.play().catch(() => {});
  }

  pause() {
    this.set({ playing: false });
    this.player.video.pause();
  }

  seek(time) {
    this.player.seek(Math.max(0, Math.min(time, madeOf(this.state))));
    this.set({ selected: null });
  }

  /** To the newest frames, a little before their end so that playback does not starve. */
  live() {
    this.seek(madeOf(this.state) - 0.5);
    this.play();
  }

  /** To the cut before or after the playhead. */
  toCut(direction) {
    const { shots } = this.state;
    const now = this.player.video.currentTime;
    const cuts = shots.map((shot) => shot.time_s);
    const next =
      direction > 0
        ? cuts.find((cut) => cut > now + 0.05)
        : cuts.findLast((cut) => cut < now - 0.3);
    this.seek(next ?? (direction > 0 ? madeOf(this.state) : 0));
  }

  /** The shot that orders are about: the one chosen, else the one under the playhead. */
  get shot() {
    const { shots, selected, time } = this.state;
    const all = [...shots, ...comingOf(this.state)];
    return all.find((shot) => shot.shot_id === selected) ?? at(shots, time);
  }
}
