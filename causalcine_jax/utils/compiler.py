"""XLA's settings, the same for films, training, plans and benchmarks.

They are environment variables, because jax reads them when it is imported or starts its devices.
This module does not import jax.
"""

import os

# Overlaps communication with compute.
LEVEL = "O1"
# The VAE's 3-D convolutions compile for channels-first otherwise, with transposes around each:
# decoding 12 frames of 832x480 then moves 110 GB instead of 98. CPUs and TPUs ignore the flag.
FLAGS = {"xla_gpu_force_conv_nhwc": True}


def tune_compiler() -> None:
    """Sets them for this process and its children. What the environment already sets stays."""
    os.environ.setdefault("JAX_OPTIMIZATION_LEVEL", LEVEL)
    given = os.environ.get("XLA_FLAGS", "")
    missing = [
        f"--{name}={str(value).lower()}" for name, value in FLAGS.items() if name not in given
    ]
    if missing:
        os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()
