"""YAML and JSON files as plain data: what users write, and what they get wrong, up to a file made to hang its reader.

    file -> at most MOST_BYTES of UTF-8 -> nodes, counted with aliases written out -> dicts, lists, numbers and text

A key given twice is a fault, not a silent choice of the last one.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError, printable, raise_faults

MOST_BYTES = 64 << 20  # of JSON; the record of an hour of film is some MB
MOST_YAML_BYTES = 2 << 20  # PyYAML reads some hundred KB a second
MOST_NODES = 400_000  # of YAML, each alias counted as all that it stands for
LONGEST_REASON = 300  # characters of what a parser says
# What PyYAML and json raise for values that their own patterns let pass: dates of a 99th month, !!bool "abc", !!int "", 5,000 digits.
ROTTEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def read_plain(path: str | Path) -> Any:
    """A YAML or JSON file as plain data.

    Raises:
      UsageError: there is no such file, or it is not YAML or JSON, too large, or gives a key twice.
      DataError: it cannot be read.
    """
    as_json = Path(path).suffix.lower() == ".json"
    most = MOST_BYTES if as_json else MOST_YAML_BYTES
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
        raise UsageError(
            f"{path}: has more than {most:,} bytes{'' if as_json else ': write so long a story as .json'}"
        )
    doubled: list[str] = []
    data = _parse_json(text, path, doubled) if as_json else _parse_yaml(text, path, doubled)
    raise_faults(str(path), [f"the key '{key}' is given twice" for key in doubled])
    return data


def _parse_json(text: str, path, doubled: list[str]) -> Any:
    def mapping(pairs):
        doubled.extend(_doubled(key for key, _ in pairs))
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except ROTTEN as error:
        raise UsageError(f"{path}: not valid JSON: {_reason(error)}") from None


def _parse_yaml(text: str, path, doubled: list[str]) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
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
                f"{path}: its aliases (&a, *a) stand for more than {MOST_NODES:,} values, or for themselves: write out what you mean"
            )
        return loader.construct_document(node)
    except UsageError:
        raise
    except (yaml.YAMLError, *ROTTEN) as error:
        raise UsageError(f"{path}: not valid YAML: {_reason(error)}") from None


def _written_out(root) -> float:
    """How many nodes a document has once every alias is replaced by what it stands for; infinite if one stands for itself."""
    sizes: dict[int, float] = {}

    def size(node) -> float:
        if isinstance(node.value, str):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = float("inf")  # until it is known: whoever asks meanwhile lies inside
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
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, RecursionError):
        said = "it is nested too deeply"
    elif said.startswith("Exceeds the limit"):
        said = "a whole number of thousands of digits"
    elif isinstance(error, LookupError | TypeError | AttributeError):
        said = f"a value is not what its tag says ({said})"
    return printable(said if len(said) <= LONGEST_REASON else said[:LONGEST_REASON] + "...")
