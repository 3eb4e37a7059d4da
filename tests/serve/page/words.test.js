import assert from "node:assert/strict";
import { test } from "node:test";

import { offers, phrases, unknown } from "./page/words.js";

const words = {
  places: ["on the beach", "in the meadow"],
  characters: { fox: ["Mia the fox"], owl: ["Otto the owl"], bear: ["Ben the bear"] },
  "other words": ["waves", "and", "Mia"],
};
const texts = (said) => offers(phrases(words), said).map(({ text, from }) => [text, from]);

test("each phrase is known once, under the kind that named it first", () => {
  const known = phrases({ places: ["on the beach"], "other words": ["On the Beach", "fox"] });
  assert.deepEqual(known, [
    { text: "on the beach", kind: "places" },
    { text: "fox", kind: "other words" },
  ]);
  assert.deepEqual(phrases(null), []);
});

test("longer beginnings are completed first, within their clause", () => {
  assert.deepEqual(texts("Mia waves on the b"), [
    ["on the beach", 10],
    ["Ben the bear", 17],
  ]);
  assert.deepEqual(texts("Mia waves. in"), [["in the meadow", 11]]);
  assert.deepEqual(texts("Mia waves "), []);
  assert.deepEqual(texts("on the beach"), []);
});

test("words that the model does not know are told, but not while they are typed", () => {
  assert.deepEqual(unknown(words, "Mia the fox juggles on the beach."), ["juggles"]);
  assert.deepEqual(unknown(words, "Mia wav"), []);
  assert.deepEqual(unknown(words, "Mia wavy"), ["wavy"]);
  assert.deepEqual(unknown({ places: [] }, "anything"), []);
});
