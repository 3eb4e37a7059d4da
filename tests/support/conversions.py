"""Runs launch/convert.py's conversion in this process, and compares what it wrote."""

from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig


def run(source, out, **options):
    convert(ConvertConfig(source, out, progress=False, **options))


def assert_equal_bytes(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert (
            a[key].dtype == b[key].dtype
            and a[key].tobytes() == b[key].tobytes()
            and a[key].shape == b[key].shape
        ), key


def only(everything, part):
    return {key: tensor for key, tensor in everything.items() if key.startswith(f"{part}:")}
