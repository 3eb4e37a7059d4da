"""The receptive field by hand-computed cases: frames and positions, for every policy."""

import jax
import numpy as np
import pytest

from causalcine_jax.commands import film
from causalcine_jax.config import AFTER_CUT, MemoryConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.memory_policies import POLICIES, Policy
from causalcine_jax.models import receptive_field as fields

receptive_field = jax.jit(fields.receptive_field, static_argnames=("memory", "chunk_frames"))
choose_fields = jax.jit(fields.choose_fields, static_argnames=("memory", "chunk_frames"))
describe = jax.jit(fields.describe, static_argnames="parts")
TIME = np.arange(30, dtype=np.int32)


def field(history_time, chunk_index, memory, liked=(), chunk_frames=3):
    """The field when the frames in `liked` (film time) score highest, in that order."""
    history_time = np.asarray(history_time, np.int32)
    descriptors = np.zeros((len(history_time), 1, 2), np.float32)
    for rank, time in enumerate(liked):
        descriptors[list(history_time).index(time), 0, 0] = 10.0 - rank
    descriptors[:, 0, 1] = -history_time / 1000  # the rest: older is liked more
    query = np.ones((1, 1, 2), np.float32)
    return in_numpy(
        receptive_field(
            query, descriptors[:, None], history_time, np.int32(chunk_index), memory, chunk_frames
        )
    )


def chosen(*given):
    return in_numpy(choose_fields(*given))


def in_numpy(found):
    return jax.tree.map(np.asarray, found)


def frames(f):
    return [int(t) for t in f.frame[: int(f.length)]]


def test_camr_takes_the_window_then_the_best_of_the_rest_newest_first():
    memory = MemoryConfig(window_chunks=2, memory_frames=3)
    f = field(range(30), 7, memory, liked=(4, 13, 2))
    assert frames(f) == [20, 19, 18, 17, 16, 15] + [13, 4, 2]
    assert f.position.tolist() == list(range(3, 12))
    assert f.slot.tolist() == f.frame.tolist()


def test_the_own_chunk_and_the_future_are_never_history():
    f = field(range(30), 3, MemoryConfig(window_chunks=1, memory_frames=30))
    assert frames(f) == list(range(8, -1, -1))


def test_head_scores_are_summed():
    """Paper Eq. 7: one decision per layer, a dot product summed over heads."""
    query = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    keys = np.zeros((6, 2, 2), np.float32)
    keys[1] = [1.0, 9.0], [9.0, 0.0]
    keys[2] = [0.0, 9.0], [9.0, 0.6]
    memory = MemoryConfig(window_chunks=1, memory_frames=1)
    f = receptive_field(query[None], keys[:, None], TIME[:6], np.int32(6), memory, 1)
    assert frames(in_numpy(f)) == [5, 2]  # 2 * 0.6 beats 1 * 1


def test_descriptors_are_means_over_tokens_and_the_query_over_the_whole_chunk():
    """Paper Eq. 6: a frame is described by its mean key, a chunk by the mean of all its queries."""
    keys = np.zeros((1, 6, 2, 1, 2), np.float32)  # [b, f, p, h, d]
    keys[0, 1, :, 0, 0] = 9, -9  # one token matches best, but not the frame's mean
    keys[0, 3, :, 0, 0] = 1, 2
    described = describe(keys)
    np.testing.assert_array_equal(described[0, :, 0, 0, 0], [0, 0, 0, 1.5, 0, 0])
    # [b, t, h, d]: a chunk of two frames of two tokens
    queries = np.zeros((1, 4, 1, 2), np.float32)
    queries[0, :, 0, 0] = 8, -1, -1, -1
    memory = MemoryConfig(window_chunks=1, memory_frames=1)
    found = chosen(queries, None, described, TIME[:6], np.int32(3), memory, 2)
    assert found.frame[0].tolist() == [5, 4, 3]
    found = chosen(-queries, None, described, TIME[:6], np.int32(3), memory, 2)
    assert found.frame[0, :2].tolist() == [5, 4] and found.frame[0, 2] != 3


def test_attended_finds_a_part_that_a_mean_over_tokens_loses():
    """Frames of two tokens. In frame 1 the first fits a query, and the second opposes it."""
    keys = np.zeros((1, 6, 2, 1, 2), np.float32)  # [b, f, p, h, d]
    keys[0, 1, :, 0, 0] = 9, -9
    keys[0, 3, :, 0, 0] = 1, 2
    # [b, t, h, d], a chunk of one frame
    queries = np.array([[[[1.0, 0.0]], [[0.0, 1.0]]]], np.float32)

    def retrieved(policy, queries):
        memory = MemoryConfig(policy, window_chunks=1, memory_frames=1)
        described = describe(keys, memory.parts(tokens=2))
        found = chosen(queries, None, described, TIME[:6], np.int32(6), memory, 1)
        return found.frame[0, 1:].tolist()

    assert retrieved("attended", queries) == [1] and retrieved("camr", queries) == [3]
    assert [MemoryConfig("attended").parts(p) for p in (1, 7, 34, 60, 1560)] == [1, 7, 2, 15, 15]
    assert MemoryConfig("camr").parts(60) == 1


def test_attended_takes_the_best_frame_of_each_chunk_first():
    keys = np.zeros((1, 9, 2, 1, 2), np.float32)
    keys[0, :, 0, 0, 0] = 9, 8, 7, 1, 2, 3, 0, 0, 0
    memory = MemoryConfig("attended", window_chunks=1, memory_frames=3)
    described = describe(keys, memory.parts(tokens=2))
    queries = np.ones((1, 6, 1, 2), np.float32)
    found = chosen(queries, None, described, TIME[:9], np.int32(3), memory, 3)
    assert found.frame[0].tolist() == [8, 7, 6, 5, 1, 0]


def test_sink_takes_the_first_frames_and_none_takes_nothing():
    assert frames(field(range(30), 7, MemoryConfig("sink", 1, 2), liked=(9,))) == [20, 19, 18, 1, 0]
    f = field(range(30), 7, MemoryConfig("none", 1, 2), liked=(9,))
    assert frames(f) == [20, 19, 18] and f.slot.shape == (3,)


def test_a_policy_may_ask_by_the_prompt_or_by_the_newest_frame():
    keys = np.zeros((1, 12, 1, 1, 2), np.float32)  # [b, f, p, h, d]
    keys[0, 1, ..., 0] = 5  # the queries' favourite
    keys[0, 4, ..., 1] = 5  # the prompt's
    keys[0, 2, ..., :] = 0.1, 0.2  # points where the newest frame points, but is short
    keys[0, 11, ..., :] = 1, 2
    described = describe(keys)
    query, prompt = np.array([[[[1.0, 0.0]]]], np.float32), np.array([[[0.0, 1.0]]], np.float32)

    def retrieved(policy, prompt_key=None, **rule):
        memory = MemoryConfig(policy, window_chunks=1, **{"memory_frames": 1} | rule)
        found = chosen(query, prompt_key, described, TIME[:12], np.int32(4), memory, 3)
        return found.frame[0, 3:].tolist()

    assert retrieved("camr") == [1] and retrieved("prompt", prompt) == [4]
    assert retrieved("alike") == [2]
    assert retrieved("camr", memory_frames=2, sink_frames=1) == [1, 0]
    assert retrieved("prompt", prompt, memory_frames=3, sink_frames=2) == [4, 1, 0]
    assert MemoryConfig(memory_frames=2, sink_frames=1).first_frames == 1
    assert MemoryConfig("none", memory_frames=2, sink_frames=1).first_frames == 0
    with pytest.raises(UsageError, match="sink_frames must be between 0 and memory_frames 1"):
        MemoryConfig(memory_frames=1, sink_frames=2)


def test_spread_takes_the_best_frame_of_each_chunk_before_any_second():
    memory = MemoryConfig("spread", window_chunks=1, memory_frames=3)
    liked = (4, 3, 5, 13, 0)  # three of one chunk first
    assert frames(field(range(30), 6, memory, liked)) == [17, 16, 15] + [13, 4, 0]
    few = frames(
        field(range(30), 3, memory, liked)
    )  # two chunks before the window: the best of both, then the second best
    assert few == [8, 7, 6] + [4, 3, 0]


def test_random_depends_on_the_chunk_and_on_no_content():
    memory = MemoryConfig("random", window_chunks=1, memory_frames=4)
    drawn = [frames(field(range(60), 15, memory, liked))[3:] for liked in ((), (4, 9), (30,))]
    assert drawn[0] == drawn[1] == drawn[2]
    assert drawn[0] != frames(field(range(60), 16, memory))[3:]
    shuffled = [*range(30, 60), *range(30)]
    assert frames(field(shuffled, 15, memory))[3:] == drawn[0]


def test_random_draws_all_frames_equally_often():
    memory = MemoryConfig("random", window_chunks=1, memory_frames=5)
    counts = np.zeros(57)
    for chunk in range(20, 420):  # a pool of 57 old frames, seen from later and later chunks
        for time in frames(field([*range(57)], chunk, memory)):
            counts[time] += 1
    expected = 400 * 5 / 57
    assert counts.sum() == 2000 and abs(counts - expected).max() < 5 * expected**0.5


def test_early_chunks_have_a_missing_suffix_and_no_hole():
    memory = MemoryConfig(window_chunks=2, memory_frames=2)
    for chunk, expected in [
        (0, []),
        (1, [2, 1, 0]),
        (2, [5, 4, 3, 2, 1, 0]),
        (3, [8, 7, 6, 5, 4, 3, 1, 0]),
    ]:
        f = field(range(30), chunk, memory)
        assert frames(f) == expected
        assert (f.frame[int(f.length) :] == -1).all() and f.slot.min() >= 0 and f.slot.max() < 30


def test_a_shuffled_pool_with_empty_slots_gives_the_same_film_frames():
    memory = MemoryConfig(window_chunks=1, memory_frames=2)
    straight = field(range(12), 4, memory, liked=(5, 1))
    shuffled = field([6, 7, 8, -1, -1, -1, 3, 4, 5, 0, 1, 2, 9, 10, 11], 4, memory, liked=(5, 1))
    assert frames(shuffled) == frames(straight) == [11, 10, 9, 5, 1]
    assert shuffled.slot.tolist() == [14, 13, 12, 8, 10]


def test_absolute_positions_are_true_distances():
    f = field(range(30), 7, MemoryConfig("camr", 1, 2, positions="absolute"), liked=(4, 13))
    assert frames(f) == [20, 19, 18, 13, 4]
    assert f.position.tolist() == [3, 4, 5, 10, 19]


def test_after_a_cut_the_chunk_stands_at_position_45_of_its_field():
    """Infinity-RoPE's rope_cut: the field keeps 0..n-1, the chunk's own frames get 45, 46, 47."""
    memory = MemoryConfig("sink", 1, 1, positions=AFTER_CUT)
    f = field(range(30), 7, memory)
    assert frames(f) == [20, 19, 18, 0]
    assert (45 - (f.position - 2)).tolist() == [
        3,
        2,
        1,
        0,
    ]  # the chunk's first frame has position 2


def test_frame_wise_chunks():
    assert frames(
        field(
            range(9),
            6,
            MemoryConfig(window_chunks=3, memory_frames=2),
            liked=(0, 2),
            chunk_frames=1,
        )
    ) == [5, 4, 3, 2, 0]


def test_an_entry_of_the_table_is_a_whole_policy(monkeypatch, capsys):
    """Config, command line and field know it; no policy acts as another one."""
    newest = Policy("the newest frames before the window", lambda frames: frames.frame)
    monkeypatch.setitem(POLICIES, "newest", newest)
    memory = MemoryConfig("newest", window_chunks=1, memory_frames=2)
    assert (memory.retrieved_frames, memory.reaches_all) == (2, True)
    assert frames(field(range(30), 7, memory, liked=(4, 9))) == [20, 19, 18, 17, 16]
    assert film.parse(["--prompt", "a hut", "--policy", "newest"]).policy == "newest"
    with pytest.raises(SystemExit):
        film.parse(["--help"])
    assert "newest: the newest frames" in " ".join(capsys.readouterr().out.split())


def test_all_faults_at_once():
    with pytest.raises(
        UsageError, match=r"(?s)policy 'camrr'.*did you mean 'camr'.*window_chunks.*memory_frames"
    ):
        MemoryConfig(policy="camrr", window_chunks=-1, memory_frames=-2)
