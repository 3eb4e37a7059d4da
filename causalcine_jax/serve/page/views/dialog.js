// A modal panel: the browser keeps the focus in it and gives it back.

import { html, useEffect, useRef } from "../ui.js";

export function Dialog({ desk, name, label, wide, onKey, children }) {
  const box = useRef(null);
  useEffect(() => box.current.showModal(), []);
  // The element tells that it closed a moment later, when another panel may be open.
  const close = () => desk.state.panel === name && desk.set({ panel: null });
  const outside = (event) => event.target === box.current && close();
  return html`<dialog
    class=${wide ? "wide" : ""}
    ref=${box}
    aria-label=${label}
    onClose=${close}
    onClick=${outside}
    onKeyDown=${onKey}
  >
    <h2>${label}<button class="quiet" aria-label="Close" onClick=${close}>×</button></h2>
    ${children}
  </dialog>`;
}
