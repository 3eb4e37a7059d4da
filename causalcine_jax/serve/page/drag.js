// Dragging with a mouse, a pen or a finger.

/** Follows the pointer until it is let go: move(dx, x) while it moves, done(dx) at the end. */
export function dragging(event, move, done) {
  const from = event.clientX;
  const moved = ({ clientX }) => move(clientX - from, clientX);
  const end = ({ type, clientX }) => {
    removeEventListener("pointermove", moved);
    removeEventListener("pointerup", end);
    removeEventListener("pointercancel", end);
    done(type === "pointercancel" ? 0 : clientX - from);
  };
  addEventListener("pointermove", moved);
  addEventListener("pointerup", end);
  addEventListener("pointercancel", end);
}
