// A button with a menu under it, which arrow keys walk and Escape closes.

import { html, useEffect, useRef } from "../ui.js";

export function Menu({ desk, name, label, title, children }) {
  const open = desk.state.panel === name;
  const box = useRef(null);
  const close = () => desk.set({ panel: null });
  useEffect(() => {
    if (!open) return;
    box.current.querySelector("[role=menuitem]")?.focus();
    const outside = (event) => box.current.contains(event.target) || close();
    addEventListener("pointerdown", outside);
    return () => removeEventListener("pointerdown", outside);
  }, [open]);
  const keys = (event) => {
    const items = [...box.current.querySelectorAll("[role=menuitem]")];
    const at = items.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      close();
      box.current.querySelector("button").focus();
    } else if (step && open) items[(at + step + items.length) % items.length].focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return html`<div class="menu" ref=${box} onKeyDown=${keys}>
    <button
      aria-haspopup="menu"
      aria-expanded=${open}
      title=${title}
      onClick=${() => desk.set({ panel: open ? null : name })}
    >
      ${label}
    </button>
    ${open && html`<div class="sheet" role="menu" aria-label=${label}>${children}</div>`}
  </div>`;
}
