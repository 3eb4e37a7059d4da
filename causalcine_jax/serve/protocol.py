"""The protocol causalcine.v1 between a director's client and a server.

    WebSocket /v1/stream, subprotocol causalcine.v1
    text messages     JSON, one of ClientMessage or ServerMessage, told apart by `type`
    binary messages   media of the `media.init` or `media.chunk` just before: fragmented mp4

A client opens with session.start or session.watch. Every shot has two receipts: shot.received when
it is queued, and shot.applied with its chunk, frame and time when its first chunk is made. Whatever
a client asks with an `event_id` is answered with it, until session.done: this ends all that waits,
and is what answers session.stop.

Media of all takes is on one time axis: frame f is at f / fps. A chunk begins with a keyframe. After
take.begun, chunks from its first_chunk on replace what was there before: append them to the same
SourceBuffer.
"""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import JsonSchemaMode

from causalcine_jax.errors import printable
from causalcine_jax.serve.client_messages import ClientMessage
from causalcine_jax.serve.parts import LONGEST_ID, FromServer
from causalcine_jax.serve.server_messages import Error, ErrorCode, ServerMessage

FROM_CLIENT: TypeAdapter[Any] = TypeAdapter(ClientMessage)
FROM_SERVER: TypeAdapter[Any] = TypeAdapter(ServerMessage)
MOST_FAULTS = 5


class Refused(Exception):
    """A message that cannot be done; `code` and `field` are those of an Error message.

    field  at fault. `type` where it is the order itself; None where no message was read
    """

    def __init__(self, code: ErrorCode, message: str, field: str | None, **more: Any):
        super().__init__(message)
        self.error = Error(code=code, message=printable(message), field=field, **more)


def read_client(text: str) -> Any:
    """The client's message in JSON. `Refused` names every field at fault and the rule."""
    try:
        return FROM_CLIENT.validate_json(text)
    except ValidationError as error:
        refused = refusal(error, skip=1)
        event = {"event_id": _event_of(text)}
        refused.error = refused.error.model_copy(update=event)
        raise refused from None


def _event_of(text: str) -> str | None:
    """The event_id of a message that is no valid one."""
    try:
        event = json.loads(text).get("event_id")
    except (ValueError, AttributeError, RecursionError):
        return None
    # Half a surrogate pair cannot be sent back.
    sound = isinstance(event, str) and len(event) <= LONGEST_ID and event == printable(event)
    return event if sound else None


def refusal(error: ValidationError, skip: int = 0) -> Refused:
    """Names every field at fault, and the rule; without the first `skip` parts of their paths."""
    faults = [
        (".".join(map(str, each["loc"][skip:])), each["msg"].removeprefix("Value error, "))
        for each in error.errors(include_url=False, include_input=False)
    ][:MOST_FAULTS]
    said = "; ".join(f"{where}: {what}" if where else what for where, what in faults)
    return Refused("bad_message", said, faults[0][0] or None)


def read_server(text: str | bytes) -> Any | None:
    """The server's message in JSON; None for a type that this client does not know."""
    try:
        return FROM_SERVER.validate_json(text)
    except ValidationError as error:
        if error.errors()[0]["type"] == "union_tag_invalid":
            return None
        raise


def written(message: Any) -> str:
    """A message as JSON, without the fields that are unset and optional."""
    return message.model_dump_json(exclude_none=not isinstance(message, FromServer))


def json_schema() -> dict[str, Any]:
    """JSON Schema of all messages: $defs, and a union of each direction."""
    sides: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        ("client", "validation", FROM_CLIENT),
        ("server", "serialization", FROM_SERVER),
    ]
    refs, schema = TypeAdapter.json_schemas(
        sides, title="causalcine.v1", ref_template="#/$defs/{model}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": {name: refs[name, mode] for name, mode, _ in sides},
    }
