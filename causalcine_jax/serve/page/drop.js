// A story or a film.json dropped onto the page, or chosen as a file, begins a film.

const MOST = 60 * 1024; // bytes; a message may have 64 KiB
const MOST_RECORD = 64 * 1024 * 1024; // of a film.json, of which only the story is sent

export function listenToDrops(desk) {
  const over = (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  const out = (event) => event.relatedTarget === null && document.body.classList.remove("dropping");
  const drop = (event) => {
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    load(desk, file);
  };
  const listeners = { dragover: over, dragleave: out, drop };
  for (const [name, listener] of Object.entries(listeners)) addEventListener(name, listener);
  return () =>
    Object.entries(listeners).forEach(([name, listener]) => removeEventListener(name, listener));
}

/** Begins the film of a story.yaml, story.json or film.json. */
export async function load(desk, file) {
  const place = desk.state.session ? "notice" : "start";
  desk.clear(place);
  try {
    const start = await read(file);
    if (desk.state.session) desk.leave();
    desk.begin(start);
  } catch (error) {
    desk.fail(place, { message: `${file.name}: ${error.message}` });
  }
}

async function read(file) {
  fits(file.size, MOST_RECORD);
  const text = await file.text();
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    fits(file.size);
    return { story: await fromYaml(text) };
  }
  if (told === null || typeof told !== "object")
    throw new Error("this is neither a story nor a film.json");
  const { schema, story } = told;
  const start = String(schema).startsWith("causalcine/film@")
    ? { record: { schema, story } }
    : { story: told };
  fits(new Blob([JSON.stringify(start)]).size);
  return start;
}

function fits(size, most = MOST) {
  if (size > most)
    throw new Error(`a story has at most ${most / 1024} KiB, and this one ${Math.ceil(size / 1024)}`);
}

/** The server reads YAML, so that the page and the command know the same stories. */
async function fromYaml(text) {
  const answer = await fetch("v1/stories:validate", { method: "POST", body: text });
  const told = await answer.json().catch(() => ({}));
  if (told.valid) return told.story;
  throw new Error(
    told.faults?.join("; ") ?? told.error?.message ?? `the server answered ${answer.status}`,
  );
}
