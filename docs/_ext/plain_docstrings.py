"""Docstrings as they are written: the first paragraph as prose, everything after it as it stands.

They are no reStructuredText, which would take their asterisks and indentation for markup.
"""

import re


def prose(line: str) -> str:
    line = re.sub(r"`([^`]+)`", r"``\1``", line.replace("\\", "\\\\"))
    parts = re.split(r"(``[^`]+``)", line)
    return "".join(
        part if part.startswith("``") else re.sub(r"([*_|])", r"\\\1", part) for part in parts
    )


def as_written(app, what, name, obj, options, lines: list[str]) -> None:
    end = next((n for n, line in enumerate(lines) if not line.strip()), len(lines))
    summary, rest = lines[:end], lines[end:]
    while rest and not rest[-1].strip():
        rest.pop()
    if rest:
        rest = ["", ".. code-block:: text", "", *(f"   {line}".rstrip() for line in rest), ""]
    lines[:] = [*map(prose, summary), *rest]


def setup(app):
    app.connect("autodoc-process-docstring", as_written)
    return {"parallel_read_safe": True}
