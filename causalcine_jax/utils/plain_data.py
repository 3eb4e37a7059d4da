"""Reads YAML and JSON files written by users as plain data, including malicious ones.

    file -> at most MOST_BYTES of UTF-8 -> nodes, aliases counted as expanded -> dicts, lists, text

A key given twice is an error; the parsers would keep the last one silently.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError, printable, raise_faults

MOST_BYTES = 64 << 20  # of JSON; the record of an hour of film takes some MB
MOST_YAML_BYTES = 2 << 20  # PyYAML reads some hundred KB a second
MOST_NODES = 400_000  # of YAML, each alias counted as everything that it expands to
MOST_WRITTEN = 50_000  # of YAML's nodes as written; PyYAML makes some thousand a second
MOST_JSON_VALUES = 4_000_000  # of JSON, which take up to 200 bytes each; counted by , [ and {
LONGEST_REASON = 300  # characters of a parser's message
# PyYAML and json raise these for values that pass their own patterns: dates of a 99th month,
# !!bool "abc", !!int "", numbers of 5,000 digits.
PARSER_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def read_plain(path: str | Path) -> Any:
    """The content of a YAML or JSON file as plain data.

    Raises:
      UsageError: the file does not exist, is not YAML or JSON, is too large, or repeats a key.
      DataError: it cannot be read.
    """
    as_json = Path(path).suffix.lower() == ".json"
    if as_json:
        text = read_text(path)
    else:
        text = read_text(path, MOST_YAML_BYTES, ": save so long a story as .json")
    return parse_plain(text, str(path), as_json)


def read_text(path: str | Path, most: int = MOST_BYTES, advice: str = "") -> str:
    """A file of UTF-8, with or without a mark in front, of at most so many bytes.

    Raises:
      UsageError: the file does not exist, is not UTF-8, or is too large, which ends with `advice`.
      DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        if len(content) <= most:
            raise UsageError(f"{path}: is not text in UTF-8: save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(content) > most:
        raise UsageError(f"{path}: has more than {most:,} bytes{advice}")
    return text


def parse_plain(text: str, what: str, as_json: bool) -> Any:
    """YAML or JSON as plain data; `what` names it in errors. `UsageError` as `read_plain`."""
    doubled: list[str] = []
    data = _parse_json(text, what, doubled) if as_json else _parse_yaml(text, what, doubled)
    raise_faults(what, [f"the key '{key}' is given twice" for key in doubled])
    return data


def _parse_json(text: str, path, doubled: list[str]) -> Any:
    def mapping(pairs):
        made = dict(pairs)
        if len(made) < len(pairs):
            doubled.extend(_doubled(key for key, _ in pairs))
        return made

    if sum(map(text.count, ",[{")) > MOST_JSON_VALUES:
        raise UsageError(f"{path}: has more than {MOST_JSON_VALUES:,} values")
    try:
        return json.loads(text, object_pairs_hook=mapping)
    except PARSER_ERRORS as error:
        raise UsageError(f"{path}: not valid JSON: {_reason(error)}") from None


def _parse_yaml(text: str, path, doubled: list[str]) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        written = 0

        def compose_node(self, parent, index):
            self.written += 1
            if self.written > MOST_WRITTEN:
                raise UsageError(
                    f"{path}: has more than {MOST_WRITTEN:,} values: save so long a story as .json"
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node, deep=False):
            if isinstance(node, yaml.MappingNode):
                doubled.extend(
                    _doubled(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
                )
            return super().construct_mapping(node, deep)

    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node) > MOST_NODES:
            raise UsageError(
                f"{path}: its aliases (&a, *a) expand to more than {MOST_NODES:,} values, or to "
                "themselves: write the values out"
            )
        return loader.construct_document(node)
    except UsageError:
        raise
    except (yaml.YAMLError, *PARSER_ERRORS) as error:
        raise UsageError(f"{path}: not valid YAML: {_reason(error)}") from None


def _written_out(root) -> float:
    """The node count with every alias expanded; infinite if an alias contains itself."""
    sizes: dict[int, float] = {}

    def size(node) -> float:
        if isinstance(node.value, str):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = float("inf")  # seen only by an alias inside this same node
            children = (
                [part for pair in node.value for part in pair]
                if node.id == "mapping"
                else node.value
            )
            sizes[id(node)] = 1 + sum(map(size, children))
        return sizes[id(node)]

    return size(root)


def _doubled(keys: Iterable[Any]) -> list[str]:
    return [str(key) for key, count in Counter(map(str, keys)).items() if count > 1]


def _reason(error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    elif reason.startswith("Exceeds the limit"):
        reason = "a whole number of thousands of digits"
    elif isinstance(error, LookupError | TypeError | AttributeError):
        reason = f"a value does not fit its tag ({reason})"
    return printable(reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + "...")
