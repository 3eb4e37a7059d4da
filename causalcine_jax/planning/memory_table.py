"""A memory plan as a table for people, or as JSON."""

import json

from causalcine_jax.planning.memory_plan import MemoryPlan
from causalcine_jax.utils.machine_memory import GB


def table(plan: MemoryPlan) -> str:
    """The plan as lines of text; GB is 10^9 bytes."""
    asked, shared = plan.request, plan.request.devices > 1
    lines = [
        f"{asked.model}, {asked.width}x{asked.height} pixels, {asked.dtype}, "
        f"{plan.tokens_per_frame} tokens per latent frame, guidance {asked.guidance:g}: "
        f"{plan.histories} {'histories' if plan.histories > 1 else 'history'}",
        f"keys and values of one latent frame: {gb(plan.kv_per_frame, 4)} per history",
        "",
        _row("", "all", "each of " + str(asked.devices) if shared else "", ""),
    ]
    of_pool = f"{asked.pool_frames} frames x {plan.histories}" + (
        "" if asked.kv_dtype == "same" else f", {asked.kv_dtype}"
    )
    for line in plan.lines:
        if line.host:
            continue
        note = (
            f"{line.parameters:,} parameters"
            if line.parameters
            else "roughly"
            if line.estimated
            else ""
        )
        if line.name == "pool of history":
            note = (
                of_pool
                if asked.pool_on == "device"
                else "what routing reads, and the frames that it likely takes"
            )
        lines.append(_row(line.name, gb(line.bytes), gb(line.device_bytes) if shared else "", note))
    lines.append(_row("total", gb(plan.total()), gb(plan.total(device=True)) if shared else "", ""))
    if any(line.name == "text encoder" for line in plan.lines):
        rest = ("text encoder",)
        lines.append(
            _row(
                "total, prompts precomputed",
                gb(plan.total(without=rest)),
                gb(plan.total(device=True, without=rest)) if shared else "",
                "no text encoder in memory",
            )
        )
    hosted = [line for line in plan.lines if line.host]
    lines += [
        _row(line.name, gb(line.bytes), gb(line.device_bytes) if shared else "", of_pool)
        for line in hosted
    ]
    return "\n".join(lines)


def to_json(plan: MemoryPlan) -> str:
    return json.dumps(plan.to_dict(), indent=2)


def _row(name: str, everywhere: str, each: str, note: str) -> str:
    return f"{name:<28}{everywhere:>12}{each:>12}   {note}".rstrip()


def gb(size: int, digits: int = 3) -> str:
    """Bytes as GB of 10^9."""
    return f"{size / GB:.{digits}f} GB"
