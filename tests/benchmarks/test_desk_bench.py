"""`causalcine bench desk`: what its clients count, and how a soak that fails is told."""

import asyncio
import types

import pytest

from benchmarks.desk import _soaked
from benchmarks.desk_clients import Arrivals
from causalcine_jax.errors import DataError
from causalcine_jax.serve.server_messages import MediaDropped


def test_chunks_that_were_dropped_or_lack_without_a_word_are_lost_once():
    arrivals = Arrivals()
    came = lambda take, chunk: types.SimpleNamespace(type="media.chunk", take_id=take, chunk=chunk)
    for told in (
        came("t1", 3),  # a viewer comes in the middle
        came("t1", 5),
        MediaDropped(take_id="t1", chunks=(4, 6)),  # told later than chunks after them
        came("t1", 8),
        came("t2", 2),  # a retake begins at its shot
    ):
        arrivals.read(told)
    assert (arrivals.chunks, arrivals.lost) == (4, 3)  # 4, 6 and 7


def test_a_soak_whose_server_is_gone_is_told_in_one_line():
    def memory():
        raise DataError("the desk ended with code 1")

    gone = types.SimpleNamespace(url="http://127.0.0.1:9/?token=t", memory=memory)
    with pytest.raises(DataError, match=r"the soak ended early: \w+: "):
        asyncio.run(_soaked(gone, 1.0))
