"""The protocol's page, written from the types of the messages.

python docs/_ext/protocol_page.py > docs/protocol.md
"""

import inspect
import typing

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from causalcine_jax.serve import jobs, parts, protocol
from causalcine_jax.serve.client_messages import ClientMessage
from causalcine_jax.serve.server_messages import ServerMessage

HEAD = """# The desk's protocol

`docs/_ext/protocol_page.py` writes this page from the types of the messages. A server has their
JSON Schema at `/v1/schema`.
"""
HTTP = """## By HTTP

All but `/healthz` and `/readyz` need the token: the cookie, or `Authorization: Bearer TOKEN`.

| path | what |
|---|---|
| `GET /` | the page |
| `GET /v1/sessions/{session}/header.mp4` | the mp4 header of all media |
| `GET .../takes/{take}/chunks/{chunk}` | a chunk's media |
| `GET .../takes/{take}/frames/{frame}` | a frame as a small JPEG |
| `GET .../takes/{take}/{file}` | `film.mp4`, `film.json`, `story.yaml`, `contact_sheet.png` |
| `POST /v1/videos` | films a prompt or a story without a director; see below |
| `GET /v1/videos`, `GET`, `DELETE /v1/videos/{id}` | its state, as OpenAI's video API tells it |
| `GET /v1/videos/{id}/content` | its film |
| `POST /v1/stories:validate` | a story in YAML or JSON: its faults, or what becomes of it |
| `GET /metrics` | for Prometheus |
| `GET /v1/model` | the model, as in `session.started`: its size, its words, an example story |
| `GET /v1/schema` | JSON Schema of all messages |
| `GET /readyz` | 200 once the model is compiled, 503 before |
| `GET /healthz` | `{"status": "ok"}` |

Frames, a take's files, new videos and stories to check cost work. Of these an address may ask for
50 a second per film. More wait up to two seconds, then get 429 with `Retry-After`.

A session's id is a secret of 128 bits: who knows it may see the film, and no one else.
The resume token alone directs it. `...` is `/v1/sessions/{session}`.
"""
SHARED = (
    parts.NewShot, parts.QueuedShot, parts.MadeShot, parts.TakeInfo, parts.ChunkInfo,
    parts.Retrieved, jobs.NewVideo, parts.ModelInfo, parts.Limits,
)  # fmt: skip


def page() -> str:
    """The page in Markdown."""
    lines = [HEAD, *_prose(inspect.getdoc(protocol) or ""), HTTP]
    for title, union in (("From the client", ClientMessage), ("From the server", ServerMessage)):
        lines += [f"## {title}", ""]
        for message in typing.get_args(typing.get_args(union)[0]):
            lines += _section(message, typing.get_args(message.model_fields["type"].annotation)[0])
    lines += ["## Parts of messages", ""]
    for part in SHARED:
        lines += _section(part, part.__name__)
    return "\n".join(lines).rstrip() + "\n"


def _section(model: type[BaseModel], title: str) -> list[str]:
    lines = [f"### {title}", ""]
    if own := model.__dict__.get("__doc__"):
        lines += [" ".join(inspect.cleandoc(own).split()), ""]
    fields = {name: field for name, field in model.model_fields.items() if name != "type"}
    if fields:
        lines += ["| field | type | meaning |", "|---|---|---|"]
        lines += [_row(name, field) for name, field in fields.items()] + [""]
    return lines


def _row(name: str, field: FieldInfo) -> str:
    kind = _kind(field.annotation).replace("|", r"\|")
    default = "" if field.is_required() or field.default is None else f", default {field.default!r}"
    needed = " (required)" if field.is_required() else ""
    meaning = " ".join((field.description or "").split())
    return f"| `{name}` | {kind}{needed}{default} | {meaning} |"


def _kind(annotation) -> str:
    """A type in plain words."""
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Annotated:
        return _kind(of[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in of)
    if origin is tuple:
        return f"list of {_kind(of[0])}"
    if origin is dict:
        return "mapping"
    if of:
        return " or ".join(_kind(one) for one in of)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, annotation.__name__)


def _prose(text: str) -> list[str]:
    """A docstring as Markdown: indented lines become code."""
    lines, inside = [], False
    for line in text.splitlines():
        indented = line.startswith("    ")
        if indented != inside:
            lines += ["```" + ("text" if indented else "")]
            inside = indented
        lines.append(line.removeprefix("    "))
    return [*lines, ""]


if __name__ == "__main__":
    print(page(), end="")
