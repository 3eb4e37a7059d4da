// The socket to the server: messages out, messages and media in, and a new socket when one drops.

const PROTOCOL = "causalcine.v1";
const WAITS = [300, 700, 1500, 3000, 6000]; // ms before each try; the last one repeats
const QUICK = 1000; // a socket that ends sooner was refused, not dropped

export class Link {
  #socket = null;
  #closed = true;
  #tries = 0;
  #timer = 0;
  #header = null; // the message whose media the next binary message is
  #events = 0;

  /** on: {message(told), media(told, bytes), state(name)}: opening, open, lost or refused. */
  constructor(on) {
    this.on = on;
    // A laptop that wakes up should not sit out the wait.
    addEventListener("online", () => this.#again(0));
  }

  /** Opens a socket and keeps one open until close(). `hello` returns its first message. */
  open(hello) {
    this.close();
    this.hello = hello;
    this.#closed = false;
    this.#tries = 0;
    this.#connect();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#socket = null;
  }

  /** Sends a message; returns the event id that its answer carries, or null if none is open. */
  send(message, { event = true } = {}) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return null;
    const event_id = `p${++this.#events}`;
    this.#socket.send(JSON.stringify(event ? { ...message, event_id } : message));
    return event_id;
  }

  #connect() {
    this.on.state("opening");
    const url = new URL("v1/stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url, PROTOCOL));
    const begun = performance.now();
    let opened = false;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      opened = true;
      this.on.state("open");
      this.send(this.hello());
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      if (typeof data !== "string") return this.on.media(this.#header, data);
      const told = JSON.parse(data);
      // Told together with its media, so that the picture does not wait for the page to be drawn.
      if (told.type === "media.init" || told.type === "media.chunk") return (this.#header = told);
      // A working session proves the address good: the next drop is tried at once.
      if (told.type === "session.started") this.#tries = 0;
      this.on.message(told);
    };
    socket.onclose = ({ reason }) => {
      if (socket !== this.#socket || this.#closed) return;
      this.#socket = null;
      const refused = !opened && performance.now() - begun < QUICK;
      this.on.state(refused ? "refused" : "lost", reason);
      if (refused) this.#follow();
      this.#again(WAITS[Math.min(this.#tries++, WAITS.length - 1)]);
    };
  }

  /** Of several servers (replicas.py) another answers for one that is gone: goes there. */
  async #follow() {
    const answer = await fetch("readyz").catch(() => null);
    if (answer?.redirected && !this.#closed)
      location.replace(new URL(`./${location.hash}`, answer.url));
  }

  #again(wait) {
    if (this.#closed || this.#socket) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), wait);
  }
}
