"""A compile plan as text for people, or as JSON. GB is 10^9 bytes."""

import dataclasses
import json
from typing import Any

import jax

from causalcine_jax.planning.attained import how_sure, rate_lines
from causalcine_jax.planning.compile_advice import advice
from causalcine_jax.planning.compile_plan import CompilePlan, ProgramAccount
from causalcine_jax.planning.hlo.collectives import by_kind
from causalcine_jax.planning.memory_table import gb
from causalcine_jax.planning.roofline import peaks


def table(plan: CompilePlan) -> str:
    films, where = plan.films, plan.target
    lines = [
        f"{plan.what} on {where.name}: {where.devices} devices as "
        f"{where.devices // plan.seq} x {plan.seq} (data x seq); {_films(plan)} of "
        f"{films.frames} latent frames, {films.width}x{films.height} pixels"
    ]
    for account in plan.accounts:
        lines += ["", *_program(account)]
    seconds, likely = plan.cycle_seconds, plan.cycle_expected
    if seconds is not None and likely is not None:
        sure = f"how sure: rates {how_sure(where)}"
        lines += ["", *_time(plan, *seconds), *_expected(plan, *likely), sure]
    lines += ["", peaks(where), "expected fractions of these peaks:"]
    lines += [f"  {line}" for line in rate_lines(where)]
    if not plan.fits:
        lines += ["", "DOES NOT FIT. To change:", *(f"  {line}" for line in advice(plan))]
    return "\n".join(lines)


def _expected(plan: CompilePlan, likely: float, least: float, most: float) -> list[str]:
    if plan.what == "rollout":
        frames = plan.config.chunk_frames * plan.config.vae.temporal_stride
        return [
            f"expected: {likely:.3g} s ({least:.3g} to {most:.3g}), {frames / likely:.1f} fps "
            f"({frames / most:.1f} to {frames / least:.1f})"
        ]
    per = f"; a step {likely / plan.cycle:.3g} s" if plan.cycle > 1 else ""
    return [f"expected: {likely:.4g} s ({least:.4g} to {most:.4g}){per}"]


def _time(plan: CompilePlan, least: float, most: float) -> list[str]:
    steps = plan.cycle
    if plan.what == "rollout":
        frames = plan.config.chunk_frames * plan.config.vae.temporal_stride
        return [
            f"a chunk of {frames} video frames, at peak: at least {least:.3g} s "
            f"({frames / least:.1f} fps), {most:.3g} s ({frames / most:.1f} fps) "
            "if nothing overlaps"
        ]
    if steps == 1:
        return [f"a step: at least {least:.3g} s, {most:.3g} s if nothing overlaps"]
    runs = ", ".join(f"{one.name} {_times(steps // one.every)}" for one in plan.accounts)
    return [
        f"a cycle of {steps} steps ({runs}): at least {least:.4g} s, {most:.4g} s "
        "if nothing overlaps",
        f"a step, the mean of a cycle's: at least {least / steps:.3g} s, {most / steps:.3g} s "
        "if nothing overlaps",
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _films(plan: CompilePlan) -> str:
    return (
        f"{plan.target.devices // plan.seq} films at once,"
        if plan.what == "rollout"
        else f"a batch of {plan.config.batch} films"
    )


def to_json(plan: CompilePlan) -> str:
    assumed = [peaks(plan.target), *rate_lines(plan.target)]
    return json.dumps(to_dict(plan) | {"assumptions": assumed}, indent=2)


def to_dict(plan: CompilePlan) -> dict:
    """Plain data for JSON."""
    return {
        "program": plan.what,
        "topology": plan.target.name,
        "devices": plan.target.devices,
        "seq": plan.seq,
        "batch": plan.config.batch,
        "films": dataclasses.asdict(plan.films),
        "fits": plan.fits,
        "programs": [_account(one) for one in plan.accounts],
        **_seconds(plan),
        "advice": [] if plan.fits else advice(plan),
        "config": dataclasses.asdict(plan.config),
        "jax": jax.__version__,
    }


def _account(one: ProgramAccount) -> dict:
    sizes = lambda parts: {name: dict(zip(("all", "device"), size)) for name, size in parts.items()}
    kinds = by_kind(one.collectives).items()
    return _with(one, "fits") | {
        "parts": sizes(one.parts),
        "host": sizes(one.host),
        "copied": dict(zip(("from_host", "to_host"), one.copied)),
        "collectives": {kind: dict(zip(("count", "bytes"), sent)) for kind, sent in kinds},
        "largest_collectives": [dataclasses.asdict(sent) for sent in one.collectives[:8]],
        "roofline": one.roofline and _with(one.roofline, "bound", "serial", "limit"),
    }


def _with(one: Any, *properties: str) -> dict:
    """The fields of a dataclass and these properties."""
    return dataclasses.asdict(one) | {name: getattr(one, name) for name in properties}


def _seconds(plan: CompilePlan) -> dict:
    """Seconds of a chunk; or of a step, as the mean over a cycle, and of that cycle."""
    if plan.cycle_seconds is None or plan.cycle_expected is None:
        return {}
    bounds = dict(zip(("bound", "serial"), plan.cycle_seconds))
    likely = dict(zip(("expected", "expected_least", "expected_most"), plan.cycle_expected))
    if plan.what == "rollout":
        return {"seconds_per_chunk": bounds | likely}
    runs = {one.name: plan.cycle // one.every for one in plan.accounts}
    return {
        "seconds_per_step": {name: seconds / plan.cycle for name, seconds in bounds.items()},
        "seconds_per_cycle": {"steps": plan.cycle, "runs": runs, **bounds, **likely},
    }


def _program(one: ProgramAccount) -> list[str]:
    every = f", in one of {one.every} steps" if one.every > 1 else ""
    lines = [f"{one.name}{every}", _row("", "all", "each device")]
    lines += [_row(name, gb(whole), gb(share)) for name, (whole, share) in one.parts.items()]
    if one.results is not None:
        lines.append(_row("results not in place", "", gb(one.results)))
    if one.temporaries is not None:
        history = f"{gb(one.pool)} of them history" if one.pool else ""
        lines.append(_row("activations, temporaries", "", gb(one.temporaries), history))
    if one.code:
        lines.append(_row("code", "", gb(one.code)))
    lines += [
        _row(f"{name}, in host memory", gb(whole), gb(share), "not in the total")
        for name, (whole, share) in one.host.items()
    ]
    verdict = "fits" if one.fits else "DOES NOT FIT"
    lines += [_row("total", "", gb(one.total), f"{verdict} in {gb(one.limit)}")]
    lines += (
        [
            "  largest arrays:",
            *(f"    {gb(b.bytes):>10}  {b.shape}  {b.source[-90:]}" for b in one.buffers[:5]),
        ]
        if one.buffers
        else []
    )
    kinds = by_kind(one.collectives)
    if kinds:
        lines.append("  collectives, bytes that each device sends:")
        lines += [
            f"    {kind:<20}{count:>9} x{gb(size):>14}" for kind, (count, size) in kinds.items()
        ]
    lines.append(f"  {one.flops:.3e} FLOPs on all devices, remat's included")
    if one.roofline is not None and one.traffic is not None:
        r = one.roofline
        lines.append(
            f"  at least {r.bound:.3g} s by {r.limit}: arithmetic {r.arithmetic:.3g} s, "
            f"memory {r.memory:.3g} s ({gb(one.traffic)}), "
            f"collectives {r.collectives:.3g} s{_copies(one)}; "
            f"{r.serial:.3g} s if nothing overlaps"
        )
    if (e := one.expected) is not None:
        parts = ", ".join(f"{kind} {seconds:.3g} s" for kind, seconds in e.parts.items() if seconds)
        lines.append(f"  expected {e.seconds:.3g} s ({e.least:.3g} to {e.most:.3g}): {parts}")
    lines.append(
        f"  traced in {one.seconds['trace']:.0f} s, compiled in {one.seconds['compile']:.0f} s"
    )
    return lines


def _copies(one: ProgramAccount) -> str:
    if not any(one.copied):
        return ""
    seconds = None if one.roofline is None else one.roofline.copies
    took = "unknown" if seconds is None else f"{seconds:.3g} s"
    return f", copies {took} (at most {gb(one.copied[0])} from the host, {gb(one.copied[1])} to it)"


def _row(name: str, whole: str, share: str, note: str = "") -> str:
    return f"  {name:<28}{whole:>14}{share:>14}   {note}".rstrip()
