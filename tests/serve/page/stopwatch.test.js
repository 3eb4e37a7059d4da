import assert from "node:assert/strict";
import { test } from "node:test";

import { Stopwatch } from "./page/stopwatch.js";

test("an answer counts from Enter, a lag from the chunk's arrival, each once", (context) => {
  let now = 0;
  context.mock.method(performance, "now", () => now);
  const watch = new Stopwatch();
  now = 100;
  watch.sent("e1");
  now = 400;
  watch.begins("e1", 2.0);
  watch.begins("unknown", 2.0);
  watch.arrived(2.0);
  now = 450;
  assert.deepEqual(watch.shown(1.9), {});
  now = 500;
  assert.deepEqual(watch.shown(2.0), { answer: 400, lag: 100 });
  assert.deepEqual(watch.shown(3.0), {});
});

test("nothing is awaited any more when another film or take is shown", () => {
  const watch = new Stopwatch();
  watch.sent("e1");
  watch.begins("e1", 2.0);
  watch.sent("e2");
  watch.arrived(2.0);
  watch.clear();
  watch.begins("e2", 3.0);
  assert.deepEqual(watch.shown(4.0), {});
});
