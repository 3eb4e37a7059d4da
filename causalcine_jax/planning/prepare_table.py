"""The plan of `causalcine prepare` as a table for people, or as JSON."""

import json

from causalcine_jax.planning.memory_table import gb
from causalcine_jax.planning.prepare_plan import PlanRow, PrepareRequest


def table(request: PrepareRequest, rows: list[PlanRow]) -> str:
    """The plan as lines of text; GB is 10^9 bytes."""
    lengths = ",".join(map(str, request.lengths))
    lines = [
        f"{request.videos:,} videos of {request.hours:,g} hours; films of "
        f"{request.width}x{request.height} pixels, {lengths} latent frames; "
        f"{request.devices} {request.chip}, {request.cores} cores",
        "",
    ]
    lines += [
        f"{row.name:<28}{_value(row):>20}   {row.how + ':':<9} {row.source}".rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _value(row: PlanRow) -> str:
    if row.unit == "bytes":
        return gb(int(row.value), 1)
    return (
        f"{row.value:,.1f} {row.unit}"
        if row.unit in ("hours", "GB")
        else f"{row.value:,} {row.unit}"
    )


def to_json(request: PrepareRequest, rows: list[PlanRow]) -> str:
    plan = {"request": vars(request), "rows": [vars(row) for row in rows]}
    return json.dumps(plan, indent=2)
