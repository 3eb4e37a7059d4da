// The films of this browser: the tokens that open them again, and where each was left.

const FILMS = "causalcine.films";
const HERE = "causalcine.film"; // this tab's
const MOST = 200; // no other place has their tokens

function read(store, key, otherwise) {
  try {
    return JSON.parse(store.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(store, key, value) {
  try {
    store.setItem(key, JSON.stringify(value));
  } catch {
    // Private windows may refuse: the film is then only open here.
  }
}

export const films = () => read(localStorage, FILMS, []);

/** Keeps a film's token, with what the list shows of it. */
export function keepFilm(token, shown) {
  const before = films();
  const old = before.find((film) => film.token === token);
  const others = before.filter((film) => film.token !== token);
  write(
    localStorage,
    FILMS,
    [{ ...old, ...shown, token, seen: Date.now() }, ...others].slice(0, MOST),
  );
}

export function forgetFilm(token) {
  write(
    localStorage,
    FILMS,
    films().filter((film) => film.token !== token),
  );
}

/** What this tab shows: {token, position}, so that a reload goes on there. */
export const here = () => read(sessionStorage, HERE, null);
export const stayHere = (value) => write(sessionStorage, HERE, value);
