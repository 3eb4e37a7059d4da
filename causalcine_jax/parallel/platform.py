"""The kind of device that the traced program is for.

An active mesh decides. Without one, it is the kind of the devices that are present.
"""

import jax


def platform() -> str:
    """cpu, gpu or tpu.

    A program can be compiled for hardware that is not present (planning/compile_plan.py).
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()
