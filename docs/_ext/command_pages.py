"""A page per command, written from its docstring and its flags before the other pages are read.

    causalcine_jax/commands/X.py, or launch/X.py that reads flags itself -> docs/commands/X.md

A command's parser is caught as it is asked to parse. That happens in a process of its own, because
some commands set the environment that jax reads when they are imported. Training has no parser but
a config: its page lists the fields of the config's dataclasses.
"""

import argparse
import ast
import dataclasses
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PLACES = ("launch/*.py", "*/command_line.py", "causalcine_jax/commands/*.py")
NAMES = {"generate": "film", "benchmarks": "bench"}  # where a file is called otherwise
FLAG = re.compile(r"(?<![\w`/-])(--?[a-z][\w-]*(?:\.[\w]+)*(?:=[^\s,;)]+)?)")


def commands() -> dict[str, Path]:
    """The commands by name: files with a parser, and train's, which has a config instead."""
    found = {}
    for file in (file for place in PLACES for file in sorted(REPOSITORY.glob(place))):
        name = file.parent.name if file.stem == "command_line" else file.stem
        defines = set(re.findall(r"^def (\w+)\(", file.read_text("utf-8"), re.MULTILINE))
        if "parse" in defines or (name == "train" and "main" in defines):
            found[NAMES.get(name, name)] = file
    return dict(sorted(found.items()))


# --- in the process that imports the command ---


class _Caught(Exception):
    pass


def _described(parser: argparse.ArgumentParser) -> dict:
    """What a page says of a parser, as plain data."""
    groups, parts = [], {}
    for group in parser._action_groups:
        flags = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                parts = {name: _described(part) for name, part in action.choices.items()}
            elif not isinstance(action, argparse._HelpAction):
                named = parser._get_formatter()._format_action_invocation(action)
                if action.choices and action.option_strings:
                    named = f"{action.option_strings[-1]} {'|'.join(map(str, action.choices))}"
                text = (action.help or "") % {**vars(action), "prog": parser.prog}
                flags.append((named, text, action.required and bool(action.option_strings)))
        if flags:
            groups.append((group.title, flags))
    return {"groups": groups, "parts": parts}


def catch(file: str) -> dict:
    """The parser of the command in `file`; nothing is parsed."""

    def caught(parser, *_, **__):
        raise _Caught(parser)

    argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_known_args = caught
    sys.path.insert(0, str(REPOSITORY))  # benchmarks/ and experiments/ are not installed
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    command = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = command
    spec.loader.exec_module(command)
    if not hasattr(command, "parse"):
        return {"groups": [], "parts": {}}
    try:
        command.parse([])
    except _Caught as found:
        return _described(found.args[0])
    raise SystemExit(f"{file}: parse() asks no parser")


# --- in the build ---


def flags_of(file: Path) -> dict:
    found = subprocess.run(
        [sys.executable, __file__, str(file)], capture_output=True, text=True, cwd=REPOSITORY
    )
    if found.returncode:
        raise RuntimeError(f"the flags of {file} cannot be read: {found.stderr}")
    return json.loads(found.stdout)


def prose(text: str) -> str:
    """Plain text as Markdown: flags and `...` become code, nothing else is taken for markup."""

    def part(text: str) -> str:
        if text.startswith("`"):
            return text.replace("|", r"\|")
        text = re.sub(r"([\\*_<>\[\]|`#$])", r"\\\1", text)
        return FLAG.sub(lambda flag: f"`{flag[1].replace(chr(92), '')}`", text)

    return "".join(map(part, re.split(r"(`[^`]+`)", text)))


def blocks(text: str) -> str:
    """A docstring's rest: what is indented as it stands, everything else as prose."""
    out = []
    for block in re.findall(r"(?:^ +.*\n?)+|(?:^\S.*\n?)+", text, re.MULTILINE):
        lines = inspect.cleandoc(block)
        if block.startswith(" "):
            kind = "bash" if re.match(r"python |causalcine ", lines) else "text"
            out.append(f"```{kind}\n{lines}\n```")
        else:
            out.append(prose(lines))
    return "\n\n".join(out)


def flag_list(described: dict) -> list[str]:
    lines = []
    for title, flags in described["groups"]:
        lines += [f"**{title[0].upper()}{title[1:]}**", ""]
        for named, text, required in flags:
            lines += [f"`{named}`", f": {'**required**: ' * required}{prose(text)}", ""]
    return lines


def page(name: str, file: Path) -> str:
    """The page of one command."""
    summary, _, rest = ast.get_docstring(ast.parse(file.read_text("utf-8"))).partition("\n")
    lines = [f"# {name}", "", prose(summary), "", blocks(rest.strip("\n")), ""]
    described = flags_of(file)
    if described["groups"]:
        lines += ["## Flags", "", *flag_list(described)]
    for part, its in described["parts"].items():
        lines += [f"## {name} {part}", "", *flag_list(its)]
    if name == "train":
        lines += config_fields()
    return "\n".join(lines)


def config_fields() -> list[str]:
    """Tables of the training config: field, default, meaning."""
    from causalcine_jax.training.config import TrainConfig

    config, lines = TrainConfig(), ["## Config fields", ""]
    lines += ["Set any of them with `--config.FIELD=VALUE`.", ""]
    parts = {"": config} | {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if dataclasses.is_dataclass(getattr(config, f.name))
    }
    shown: dict[type, str] = {}
    for prefix, part in parts.items():
        lines += [f"### {prefix or 'The run'}", ""]
        if (like := shown.setdefault(type(part), prefix)) != prefix:
            lines += [f"The fields of `{like}`.", ""]
            continue
        summary, meanings = field_meanings(type(part))
        lines += [prose(summary), ""]
        lines += ["| field | default | meaning |", "|---|---|---|"]
        for f in dataclasses.fields(part):
            if not dataclasses.is_dataclass(value := getattr(part, f.name)):
                named, said = f"{prefix}.{f.name}".lstrip("."), prose(meanings.get(f.name, ""))
                lines.append(f"| `{named}` | `{shortened(value)}` | {said} |")
        lines.append("")
    return lines


def shortened(value) -> str:
    """A default: a tuple of one number many times over as that."""
    if isinstance(value, tuple) and len(value) > 4 and len(set(value)) == 1:
        return f"({value[0]!r},) * {len(value)}"
    return repr(value)


def field_meanings(config_class: type) -> tuple[str, dict[str, str]]:
    """What a config's docstring says as a whole, and of each field.

    A field's line is "name  meaning" or "name, name  meaning"; it goes on where it is indented.
    """
    names = {f.name for f in dataclasses.fields(config_class)}
    first, *rest = inspect.getdoc(config_class).splitlines()
    summary, meanings, current = [first], {}, ()
    for line in rest:
        head = re.match(r"(\w+(?:, \w+)*)(?:  +| |: )(\S.*)", line)
        if head and set(said := head[1].split(", ")) <= names:
            current = said
            meanings |= dict.fromkeys(said, head[2])
        elif line.startswith(" ") and current:
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in current}
        elif line.strip():
            current = ()
            summary.append(line.strip())
    return " ".join(summary), meanings


def write_pages(app) -> None:
    folder = Path(app.srcdir) / "commands"
    folder.mkdir(exist_ok=True)
    texts = {folder / f"{name}.md": page(name, file) for name, file in commands().items()}
    for old in set(folder.glob("*.md")) - texts.keys():
        old.unlink()
    for path, text in texts.items():
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def setup(app):
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    print(json.dumps(catch(sys.argv[1])))
