// What the page knows, as one value, and how each message of the server changes it.

export const EMPTY = {
  link: "idle", // idle, opening, open, lost, refused
  session: null, // session.started
  status: "starved",
  global_caption: "",
  take_id: null,
  takes: [],
  shots: [],
  chunks: [],
  beginning: null, // the shot whose first chunk is being made
  queue: [],
  known: {}, // captions and lengths of all shots that were ever queued, by id
  media: null, // media.init
  metrics: null,
  position: null, // session.queued, while the server is full
  done: null, // session.done
  errors: {}, // by the place on the page where they belong
  said: "", // for screen readers
  shared: null, // the address to watch, where it could not be copied
  compared: [], // takes that are marked
  unsent: [], // captions of shots that a broken connection left unanswered
  answer: null, // ms from the last order to its first frame
  lag: null, // ms from a chunk's arrival to its first frame
};

/** The shots to come, with the one whose first chunk is being made. */
export const comingOf = ({ beginning, queue }) => (beginning ? [beginning, ...queue] : queue);

/** What is to come, and all that ever was. */
function coming({ known }, beginning = null, queue) {
  const told = comingOf({ beginning, queue }).map((shot) => [shot.shot_id, shot]);
  return { beginning, queue, known: { ...known, ...Object.fromEntries(told) } };
}

const CHANGES = {
  "session.queued": (state, told) => ({ position: told }),
  "session.started": (state, told) => ({ session: told, position: null, done: null }),
  "session.state": (state, told) => ({
    status: told.status,
    global_caption: told.global_caption,
    take_id: told.take_id,
    takes: told.takes,
    shots: told.shots,
    chunks: told.chunks,
    ...coming(state, told.beginning, told.queue),
  }),
  "session.status": (state, told) => ({ status: told.status }),
  "session.metrics": (state, told) => ({ metrics: told }),
  "session.done": (state, told) => ({ done: told, status: "stopped" }),
  queue: (state, told) => coming(state, told.beginning, told.shots),
  "shot.changed": (state, { take_id, shot_id, asked_chunks }) => ({
    shots: state.shots.map((shot) =>
      take_id === state.take_id && shot.shot_id === shot_id ? { ...shot, asked_chunks } : shot,
    ),
  }),
  "media.init": (state, told) => ({ media: told }),
  "shot.applied": (state, told) => {
    const caption = state.known[told.shot_id]?.caption ?? "";
    return { said: `A shot has begun at ${told.time_s.toFixed(1)} seconds: ${caption}` };
  },
  "take.begun": (state, told) => ({
    take_id: told.take.take_id,
    takes: withTake(state.takes, told.take),
    shots: told.shots,
    beginning: null,
    chunks: state.chunks.slice(
      0,
      told.replay
        ? parting(withTake(state.takes, told.take), [state.take_id, told.take.take_id])
        : told.next_chunk,
    ),
    said: `Take ${takeNumber(told.take.take_id)} goes on from ${told.time_s.toFixed(1)} seconds.`,
  }),
  "media.chunk": (state, told) => {
    const { type, ...chunk } = told;
    if (chunk.take_id !== state.take_id || missed(state, chunk)) return {};
    return {
      chunks: [...state.chunks.slice(0, chunk.chunk), chunk],
      shots: withChunk(state, chunk),
      beginning: state.beginning?.shot_id === chunk.shot_id ? null : state.beginning,
      takes: state.takes.map((take) =>
        take.take_id === chunk.take_id
          ? { ...take, chunks: chunk.chunk + 1, seconds: chunk.time_s + chunk.seconds }
          : take,
      ),
    };
  },
};

/** The state after a message. Messages of unknown types change nothing. */
export function reduced(state, told) {
  return Object.hasOwn(CHANGES, told.type)
    ? { ...state, ...CHANGES[told.type](state, told) }
    : state;
}

/** Whether chunks before this one were not sent: session.state tells of them. */
export const missed = (state, chunk) => chunk.chunk > state.chunks.length;

/** Seconds of film made. */
export const madeOf = (state) => {
  const last = state.chunks.at(-1);
  return last ? last.time_s + last.seconds : 0;
};

/** What the button says that opens an ended film again. */
export function againOf({ session, done }) {
  if (!session.directs) return "Watch again";
  return done.reason === "replaced" ? "Direct it here" : "Go on";
}

export const takeNumber = (take_id) => Number(take_id?.slice(1)) || 1;

/** The take whose own chunk this is: takes share their first chunks with their parents. */
export function ownerOf(takes, take_id, chunk) {
  let take = takes.find((each) => each.take_id === take_id);
  while (take?.parent && chunk < take.first_chunk) {
    const parent = take.parent;
    take = takes.find((each) => each.take_id === parent);
  }
  return take?.take_id ?? take_id;
}

/** The first chunk at which these takes differ. */
export function parting(takes, ids) {
  const longest = Math.max(...takes.map((take) => Math.max(take.chunks, take.first_chunk)));
  let chunk = 0;
  while (chunk < longest && new Set(ids.map((id) => ownerOf(takes, id, chunk))).size < 2) chunk++;
  return chunk;
}

/** The last of the list that begins at or before a time; the first where none does. */
export function at(list, time) {
  let found = list[0];
  for (const each of list) if (each.time_s <= time + 1e-3) found = each;
  return found;
}

function withTake(takes, take) {
  const others = takes.filter((each) => each.take_id !== take.take_id);
  return [...others, take].sort((a, b) => takeNumber(a.take_id) - takeNumber(b.take_id));
}

function withChunk({ shots, known }, chunk) {
  const last = shots.at(-1);
  if (last?.shot_id === chunk.shot_id) {
    const chunks = chunk.chunk + 1 - last.first_chunk;
    const frames = chunk.first_frame + chunk.frames - last.first_frame;
    const seconds = chunk.time_s + chunk.seconds - last.time_s;
    return [
      ...shots.slice(0, -1),
      { ...last, chunks, frames, seconds, asked_chunks: asked(last, known) },
    ];
  }
  const queued = known[chunk.shot_id];
  return [
    ...shots.filter((shot) => shot.first_chunk < chunk.chunk),
    {
      shot_id: chunk.shot_id,
      caption: queued?.caption ?? "",
      first_chunk: chunk.chunk,
      chunks: 1,
      first_frame: chunk.first_frame,
      frames: chunk.frames,
      time_s: chunk.time_s,
      seconds: chunk.seconds,
      asked_chunks: queued?.chunks ?? 1,
      seed: queued?.seed ?? null,
    },
  ];
}

const asked = (shot, known) => shot.asked_chunks || known[shot.shot_id]?.chunks || shot.chunks;
