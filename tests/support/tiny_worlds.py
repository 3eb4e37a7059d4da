"""A world of short films in few shapes, for tests of what encodes films."""

from causalcine_jax.data import encode, encode_command
from causalcine_jax.storyworld import WORLDS, WorldConfig

TINY = WorldConfig(
    48,
    80,
    12,
    min_shots=3,
    max_shots=4,
    min_shot_chunks=1,
    max_shot_chunks=2,
    late_chunk=1,
    window_chunks=1,
)
SHAPES = 4  # painted of each frame
_paint, _encode_shard = encode.Paint.__call__, encode_command._encode_shard


def paint_few(paint: encode.Paint, frames):
    """In place of `Paint.__call__`, which paints 80 shapes: most of what encoding takes here."""
    return _paint(paint, frames[:, :SHAPES])


def tiny_encode_shard(*arguments) -> None:
    """In place of `encode_command._encode_shard`, whose process has no fixtures."""
    WORLDS["tiny"] = lambda: TINY
    encode.Paint.__call__ = paint_few
    _encode_shard(*arguments)
