"""causalcine.v1: what is refused and why, what both sides ignore, and its page."""

import json
import runpy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import ROOT

from causalcine_jax.serve.client_messages import ShotAppend
from causalcine_jax.serve.parts import NewShot, QueuedShot
from causalcine_jax.serve.protocol import (
    FROM_CLIENT,
    FROM_SERVER,
    Refused,
    json_schema,
    read_client,
    written,
)
from causalcine_jax.serve.server_messages import Queue

CAPTIONS = st.text(min_size=1, max_size=60).filter(str.strip)
IDS = st.from_regex(r"[A-Za-z0-9_.:-]{1,20}", fullmatch=True)
LENGTHS = st.one_of(
    st.fixed_dictionaries({"seconds": st.floats(0.01, 3600)}),
    st.fixed_dictionaries({"chunks": st.integers(1, 4800)}),
    st.just({}),
)
BRIEFLY = settings(max_examples=60, deadline=None)
SHOTS = st.builds(lambda caption, length: {"caption": caption, **length}, CAPTIONS, LENGTHS)


@BRIEFLY
@given(SHOTS, IDS)
def test_a_clients_message_survives_the_wire(shot, event):
    sent = {"type": "shot.append", "shot": shot, "event_id": event}
    message = read_client(json.dumps(sent))
    assert isinstance(message, ShotAppend) and message.shot.caption == shot["caption"].strip()
    assert read_client(written(message)) == message


@BRIEFLY
@given(st.lists(SHOTS, max_size=5))
def test_a_servers_message_survives_the_wire_and_may_say_more(shots):
    queued = tuple(
        QueuedShot(shot_id=f"s{n}", caption=shot["caption"], chunks=1, seconds=0.75)
        for n, shot in enumerate(shots)
    )
    told = json.loads(written(Queue(shots=queued)))
    assert FROM_SERVER.validate_python({**told, "new_in_v1_1": [1]}) == Queue(shots=queued)


@BRIEFLY
@given(st.one_of(st.text(), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("type"), inner),
).map(json.dumps)))  # fmt: skip
def test_anything_else_is_refused_with_one_message(text):
    with pytest.raises(Refused) as refused:
        read_client(text)
    error = refused.value.error
    assert error.code == "bad_message" and error.message.isprintable() and error.message


@pytest.mark.parametrize(
    "fields, field, rule",
    [
        ({"shot": {"caption": "A", "chunk": 2}}, "shot.chunk", "Extra inputs"),
        ({"shot": {"caption": "  "}}, "shot.caption", "must not be empty"),
        ({"shot": {"caption": "A", "chunks": "2"}}, "shot.chunks", "valid integer"),
        ({"shot": {"caption": "A", "chunks": 2, "seconds": 1}}, "shot", "not both"),
        ({"shot": {"caption": "A", "seconds": 0}}, "shot.seconds", "greater than 0"),
        ({"shot": {"caption": "A" * 2001}}, "shot.caption", "at most 2000"),
        ({"shot": {"caption": "A"}, "before": "../etc"}, "before", "pattern"),
    ],
)
def test_a_refusal_names_the_field_and_the_rule(fields, field, rule):
    with pytest.raises(Refused) as refused:
        read_client(json.dumps({"type": "shot.append", **fields}))
    assert refused.value.error.field == field and rule in refused.value.error.message


def test_the_schema_describes_every_message():
    schema = json_schema()
    client = schema["properties"]["client"]["discriminator"]["mapping"]
    server = schema["properties"]["server"]["discriminator"]["mapping"]
    assert {"session.start", "shot.cut_now", "playback.report"} <= client.keys()
    assert {"shot.received", "shot.applied", "media.chunk"} <= server.keys()
    assert schema["$defs"]["NewShot"]["additionalProperties"] is False
    fields = schema["$defs"]["NewShot"]["properties"]
    assert fields["caption"]["description"].startswith("What the shot shows")
    assert FROM_CLIENT.core_schema and NewShot.model_config["extra"] == "forbid"


def test_the_page_of_the_protocol_is_written_from_the_types():
    page = runpy.run_path(str(ROOT / "docs" / "_ext" / "protocol_page.py"))["page"]
    assert (ROOT / "docs" / "protocol.md").read_text("utf-8") == page()
