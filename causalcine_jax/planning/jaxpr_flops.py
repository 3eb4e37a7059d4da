"""FLOPs of a traced program: matrix products, convolutions and attention kernels, with loops.

By kind, because kernels attain different fractions of the peak (attained.py). A product is wide if
neither the sum nor the outputs of its second operand are shorter than WIDE.

Counted over all devices before the compiler sees the program. So remat's recomputation counts, and
what the compiler duplicates does not, nor what nothing reads, which it drops. Padding counts as
work: attention over a partly empty field costs as much as over a full one.
"""

import math
from collections import defaultdict

WIDE = 4096
# cuDNN's kernels: FLOPs per query, key and channel.
ATTENTION = {"dot_product_attention_fwd": 4, "dot_product_attention_bwd": 10}
# The CPU's own kernels (models/cpu/kernels.py), by the shapes of their operands and results.
OWN_KERNELS = {
    "causalcine_attention": lambda q, k, *_: 4.0 * math.prod(q) * k[-3],
    "causalcine_attention_kept": lambda q, k, *_: 4.0 * math.prod(q) * k[-3],
    "causalcine_attention_backward": lambda q, k, *_: 10.0 * math.prod(q) * k[-3],
    "causalcine_fields": lambda q, k, v, pool, _, slot, *__: (
        4.0 * math.prod(q) * (q[2] + slot[2] * pool[2])
    ),
    "causalcine_fields_backward": lambda q, k, v, pool, _, slot, *__: (
        10.0 * math.prod(q) * (q[2] + slot[2] * pool[2])
    ),
    "causalcine_linear": lambda x, w, *_: 2.0 * math.prod(x) * w[-1],
    "causalcine_convolution": lambda x, w, b, y: 2.0 * math.prod(y) * math.prod(w[:-1]),
    "causalcine_convolution_gradient": lambda x, y, w, b: 2.0 * math.prod(y) * math.prod(w[:-1]),
}


def flops_by_kind(jaxpr, unknown_trips: int = 1) -> dict[str, float]:
    """FLOPs of a jaxpr: wide products, narrow products, attention, convolutions.

    A loop of data-dependent length counts as `unknown_trips` rounds, a branch as its costliest arm.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total: dict[str, float] = defaultdict(float)
    for eqn in _read(jaxpr):
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            total[_width(eqn)] += _product(eqn)
        elif name == "conv_general_dilated":
            total["convolutions"] += _convolution(eqn)
        elif kernel := next((kernel for kernel in ATTENTION if name.startswith(kernel)), None):
            query, key = (eqn.invars[i].aval.shape for i in (0, 1))  # [b, t, h, d], [b, s, h, d]
            total["attention"] += ATTENTION[kernel] * math.prod(query) * key[1]
        elif name == "ffi_call" and (count := OWN_KERNELS.get(params["target_name"])):
            kind = _own_kind(params["target_name"])
            total[kind] += count(*(array.aval.shape for array in (*eqn.invars, *eqn.outvars)))
        elif name == "cond":
            arms = [flops_by_kind(branch, unknown_trips) for branch in params["branches"]]
            for kind, flops in max(arms, key=lambda arm: sum(arm.values())).items():
                total[kind] += flops
        else:
            rounds = _rounds(name, params, unknown_trips)
            for inner in _inner(params):
                for kind, flops in flops_by_kind(inner, unknown_trips).items():
                    # The only products of kernels of our own are those of TPUs' attention.
                    total["attention" if name == "pallas_call" else kind] += rounds * flops
    return dict(total)


def _read(jaxpr) -> list:
    """The operations whose results something reads, or that have effects.

    Others stay in a trace, such as splash's forward kernel where remat keeps what it computes.
    """
    read, found = {id(value) for value in jaxpr.outvars}, []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(value) in read for value in eqn.outvars):
            read.update(map(id, eqn.invars))
            found.append(eqn)
    return found


def _own_kind(kernel: str) -> str:
    if "convolution" in kernel:
        return "convolutions"
    return "narrow products" if "linear" in kernel else "attention"


def _rounds(name: str, params, unknown_trips: int) -> int:
    """How many times an operation runs its inner program."""
    if name == "scan":
        return params["length"]
    if name == "pallas_call":  # its kernel is written for one block of the grid
        return math.prod(params["grid_mapping"].grid)
    if name == "shard_map":
        return _devices(params)
    return unknown_trips if name == "while" else 1


def _devices(params) -> int:
    """The number of devices that run a shard_map's body, whose shapes are per device."""
    axes = params.get("newly_manual_axes") or params.get("manual_axes") or params["mesh"].axis_names
    return math.prod(params["mesh"].shape[axis] for axis in axes)


def _inner(params):
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(part, "eqns") or hasattr(getattr(part, "jaxpr", None), "eqns"):
                yield part


def _width(eqn) -> str:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left, right = (eqn.invars[i].aval.shape for i in (0, 1))
    summed = math.prod(left[axis] for axis in contracted)
    wide = summed >= WIDE and right and math.prod(right) >= WIDE * summed
    return "wide products" if wide else "narrow products"


def _product(eqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(eqn) -> float:
    """Two operations per output, tap and input channel of its group."""
    kernel = eqn.invars[1].aval.shape
    outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / outputs
