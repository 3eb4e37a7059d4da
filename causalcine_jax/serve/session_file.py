"""What session.json must hold, so that a session is opened from it (project.py)."""

from typing import Any, TypeGuard

KINDS = {
    "secret_sha256": str, "watch": str, "take": str, "story": dict, "choices": dict,
    "queue": list, "shots": int,
}  # fmt: skip


def is_session(told: Any) -> TypeGuard[dict[str, Any]]:
    """Whether `told`, read from a file that may be damaged, is the content of a session.json."""
    return (
        isinstance(told, dict)
        and all(isinstance(told.get(name), kind) for name, kind in KINDS.items())
        and told["secret_sha256"].isascii()  # else it cannot be compared in constant time
    )
