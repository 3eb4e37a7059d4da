"""What a recomputed layer keeps of its self-attention: the output, and the logarithms of its sums.

The backward pass needs both. Kept, they spare it one forward pass of the attention, for an array as
large as a layer's tokens in the weights' dtype. A layer's attention to its prompt is recomputed: it
costs little, and keeping it takes as much memory.

    CPU   the kernel's results, by name (packed_fields.py)
    TPU   splash's results, by name (splash.py)
    GPU   cuDNN's results, by their primitive: jax makes them where they cannot be named
"""

from collections.abc import Callable

import jax

# The names, for jax.checkpoint, of the forward results that the backward pass needs.
ATTENDED, BY_SPLASH = "attended", "attended by splash"
CUDNN = "dot_product_attention_fwd_wrapper"  # in jax 0.10.2 to 0.12

_by_names = jax.checkpoint_policies.save_only_these_names


def kept(layers: int) -> Callable[..., bool]:
    """The policy of jax.checkpoint for `layers` layers that are recomputed together.

    Several layers are chosen where memory is short, so then only the CPU's results are kept.
    """
    return _every_kernels if layers == 1 else _the_cpus


_the_cpus = _by_names(ATTENDED)
_named = _by_names(ATTENDED, BY_SPLASH)


def _every_kernels(primitive, *operands, **how) -> bool:
    if primitive.name == CUDNN:
        # Self-attention has lengths, which jax calls padding. Attention to a prompt has none.
        return "PADDING" in str(how.get("mask_type"))
    return _named(primitive, *operands, **how)
