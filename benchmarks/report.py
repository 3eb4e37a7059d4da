"""Formats a benchmark's record as a table: a line per number, times with their spread."""

from collections.abc import Iterator

UNITS = (("flop_per_second", "FLOP/s"), ("flop", "FLOP"), ("bytes", "B"))
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def table(record: dict) -> str:
    """Returns the table, below a line with the device and the settings."""
    device, settings = record["device"] or {}, record["settings"]
    head = (
        f"{settings['preset']}, {settings['width']}x{settings['height']} on "
        f"{device.get('count')} x {device.get('kind')}, "
        f"{record['machine']['cores']} cores, load {record['machine']['load_average']}, "
        f"{record['date']}"
    )
    rows = [
        (part, name, value)
        for part, result in record["parts"].items()
        for name, value in _numbers(result)
    ]
    width = max((len(f"{part}  {name}") for part, name, _ in rows), default=0)
    return "\n".join(
        [head, *(f"{f'{part}  {name}':<{width}}  {value}" for part, name, value in rows)]
    )


def _numbers(result: dict, prefix: str = "", unit: str = "") -> Iterator[tuple[str, str]]:
    """Yields every number below `result` with its name; a time's statistics are one number."""
    for name, value in result.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and "median" in value:
            ends = f"{duration(value['shortest'])} to {duration(value['longest'])}"
            yield path, f"{duration(value['median'])}   [{ends}, {value['repeats']} times]"
        elif isinstance(value, dict):
            yield from _numbers(value, f"{path}.", name if name in ("bytes", "seconds") else unit)
        elif value is not None:
            yield path, _value(unit or name, value)


def _value(name: str, value) -> str:
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    if "seconds" in name:
        return duration(value)
    for part, unit in UNITS:
        if part in name:
            return scaled(value, unit)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def scaled(value: float, unit: str) -> str:
    """Formats `value` in the largest power of a thousand that is not above it."""
    size, letter = next(((size, letter) for size, letter in PREFIXES if value >= size), (1, ""))
    return f"{value / size:.4g} {letter}{unit}"
