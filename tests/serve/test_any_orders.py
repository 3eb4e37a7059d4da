"""Whatever a client sends in whatever order: one answer each, and a film that hangs together."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served_desk import DeskSocket, socket

SHOT_IDS = st.sampled_from(["s1", "s2", "s3", "s9"])
CAPTIONS = st.sampled_from(["Mia waves.", "Otto sleeps.", "refuseme", " "])
SHOTS = st.fixed_dictionaries({"caption": CAPTIONS, "chunks": st.integers(0, 2)})
ORDERS = st.one_of(
    st.fixed_dictionaries({"type": st.just("shot.append"), "shot": SHOTS}),
    st.fixed_dictionaries({"type": st.just("shot.cut_now"), "shot": st.none() | SHOTS}),
    st.fixed_dictionaries(
        {"type": st.just("shot.update"), "shot_id": SHOT_IDS, "chunks": st.integers(1, 2)}
    ),
    st.fixed_dictionaries({"type": st.just("shot.remove"), "shot_id": SHOT_IDS}),
    st.fixed_dictionaries({"type": st.just("shot.reorder"), "shot_ids": st.lists(SHOT_IDS)}),
    st.fixed_dictionaries({"type": st.just("retake"), "shot_id": SHOT_IDS}),
    st.fixed_dictionaries({"type": st.just("branch"), "shot_id": SHOT_IDS}),
    st.fixed_dictionaries(
        {"type": st.just("take.open"), "take_id": st.sampled_from(["t1", "t2", "t9"])}
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["session.pause", "session.resume", "snapshot", "nonsense"])}
    ),
)


def test_any_sequence_of_orders_leaves_a_film_that_hangs_together(serve_desk):
    served = serve_desk()

    @settings(
        max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(ORDERS, min_size=1, max_size=12))
    def directed(orders):
        with socket(served.host) as opened:
            client = DeskSocket(opened)
            client.say("session.start", seed=1, pace="free")
            client.shot("Mia jumps.", 1)
            for number, order in enumerate(orders):
                opened.send(json.dumps({**order, "event_id": f"e{number}"}))
            client.say("session.resume", event_id="on")
            client.until("session.status", event_id="on")
            client.say("shot.append", shot={"caption": "The end.", "chunks": 1}, event_id="end")
            client.until("shot.applied", event_id="end")
            client.until("session.status", status="starved")
            client.say("snapshot", event_id="state")
            state = client.until("session.state", event_id="state")
            answered = {m.event_id for m in client.seen if getattr(m, "event_id", None)}
            assert answered >= {f"e{number}" for number in range(len(orders))}
            assert [c.chunk for c in state.chunks] == list(range(len(state.chunks)))
            assert sum(shot.chunks for shot in state.shots) == len(state.chunks)
            ids = [shot.shot_id for shot in (*state.shots, *state.queue)]
            assert len(set(ids)) == len(ids) and state.shots[-1].caption == "The end."
            assert all((m.take_id, m.chunk) in client.media for m in client.seen
                       if m.type == "media.chunk")  # fmt: skip
            client.say("session.stop")
            client.until("session.done")

    directed()
