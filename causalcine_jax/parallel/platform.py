"""Which kind of device the program being traced is for: its mesh knows; without one, that of the devices that are here."""

import jax


def platform() -> str:
    """cpu, gpu or tpu. A program can be traced and compiled for hardware that is not there (planning/compile_plan.py)."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()
