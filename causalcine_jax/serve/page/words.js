// The words that a model knows: what could come next in a caption, and what it will not understand.

const REST = "other words"; // the kind without which a list of words is not complete
const MOST = 8;

const parts = (text) => text.toLowerCase().match(/[\p{L}\p{N}'’]+/gu) ?? [];

/** [{text, kind}] of ModelInfo.words: every word or phrase once. */
export function phrases(words) {
  if (!words) return [];
  const all = Object.entries(words).flatMap(([kind, held]) =>
    (Array.isArray(held) ? held : Object.values(held).flat()).map((text) => ({ text, kind })),
  );
  const seen = new Set();
  return all.filter(({ text }) => !seen.has(text.toLowerCase()) && seen.add(text.toLowerCase()));
}

/** What the text before the cursor may be completed to: [{text, kind, from: where it begins}]. */
export function offers(known, text) {
  // This clause's last words.
  const begun = [...text.matchAll(/[^\s.,:;]+(?=[^.,:;]*$)/g)].slice(-4);
  if (!begun.length || /\s$/.test(text)) return [];
  const found = [];
  // Longer beginnings first: "on the b" is for "on the beach" before "b" is for "bear".
  for (const { index } of begun) {
    const start = text.slice(index).toLowerCase();
    for (const { text: phrase, kind } of known) {
      const said = phrase.toLowerCase();
      if (said.startsWith(start) && said !== start && !found.some((each) => each.text === phrase)) {
        found.push({ text: phrase, kind, from: index });
      }
    }
  }
  return found.slice(0, MOST);
}

/** The words of a caption that the model does not know, less the one still typed. */
export function unknown(words, text) {
  if (!words?.[REST]) return [];
  const known = [...new Set(phrases(words).flatMap((each) => parts(each.text)))];
  const said = parts(text);
  const typed = /[\p{L}\p{N}]$/u.test(text) ? said.pop() : null;
  if (typed && !known.some((word) => word.startsWith(typed))) said.push(typed);
  return [...new Set(said)].filter((word) => !known.includes(word));
}
