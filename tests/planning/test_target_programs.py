"""Communication in programs compiled for TPUs and GPUs that are not present.

Weights are gathered, tokens exchanged for heads, gradients summed once. Four devices: training has
two films on two devices each, a rollout one film on all four. Without the compilers the tests are
skipped, with the install command.
"""

import dataclasses
import math
import re
from collections import Counter

import jax
import pytest
from compilers import needs
from tiny_models import mesh_of_nothing
from tiny_training import tiny_config

from causalcine_jax.config import PoolConfig
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig
from causalcine_jax.parallel.sharding import REPLICATED, path_of, spec_of
from causalcine_jax.planning import compile_plan as planning
from causalcine_jax.planning.hardware import target, target_mesh
from causalcine_jax.planning.hlo.collectives import first_group, is_continuation, kind_of
from causalcine_jax.planning.planned_rollout import rollout_steps
from causalcine_jax.planning.planned_step import FilmBatch, shapes, training_steps

DEVICES, LAYERS, STEPS = 4, 2, 3
SIZES = TransformerConfig(
    dim=512, ffn_dim=1280, num_heads=4, num_layers=LAYERS, text_dim=256, text_len=16, freq_dim=256
)
TEXT = TextEncoderConfig(
    vocab_size=256, dim=256, dim_attn=256, dim_ffn=384, num_heads=2, num_layers=1
)
FILMS = {"frames": 9, "size": (128, 128)}  # 64 tokens a frame, 192 a chunk
# The float32 ones among the sharded weights. A TPU still multiplies, and so gathers, in bfloat16.
FLOAT32 = re.compile("time_embedding|time_projection|head")


TARGETS = [
    pytest.param("v5e:2x2", marks=needs("tpu")),
    pytest.param("h200:1x4", marks=needs("gpu")),
]


@pytest.fixture
def exchanged(monkeypatch):
    """Compiles the first of `steps`.

    `of(topology, seq, steps) -> (planned step, account, sends)`, where sends is
    {(kind, devices, dtype, shape): how often a device sends such an array}.
    """
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    texts, parse = [], planning.parse_hlo
    monkeypatch.setattr(planning, "parse_hlo", lambda text: texts.append(parse(text)) or texts[-1])

    def measure(computation, one):
        kind = kind_of(computation, one)
        if kind is None or is_continuation(computation, one):
            return {}
        group = len(first_group(one.attributes, DEVICES))
        arrays = (
            array.text.rstrip("]").split("[")
            for operand in computation.operands(one)
            for array in operand.arrays
        )
        shape = lambda sides: tuple(int(side) for side in sides.split(",") if side not in ("", "1"))
        return Counter((kind, group, dtype, shape(sides)) for dtype, sides in arrays)

    def of(topology, seq, steps):
        where = target(topology)
        mesh = target_mesh(where, seq)
        with jax.default_matmul_precision("default"):
            step = steps(mesh)[0]
            account = planning.account(step, mesh, where)
        return step, account, texts[-1].total(measure)

    return of


def config(tmp_path):
    sample = {"steps": STEPS, "at_end": False}
    base = tiny_config(tmp_path)
    return tiny_config(
        tmp_path,
        transformer=SIZES,
        text_encoder=TEXT,
        remat=True,
        dtype="bfloat16",
        train_text_encoder=False,
        init="model",
        sample=type(base.sample)(**sample),
    )


def sharded_weights(network, sizes) -> dict[str, tuple[int, ...]]:
    """path -> shape of the parameters that the table shards."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes(network, sizes))
    return {
        path_of(path): leaf.shape
        for path, leaf in leaves
        if spec_of(path_of(path), leaf.shape, mesh_of_nothing(DEVICES, 1)) != REPLICATED
    }


def split(weights):
    """(elements of the layers' weights, elements of the others by path)."""
    inside = sum(math.prod(shape) for path, shape in weights.items() if path.startswith("blocks."))
    return inside, {
        path: math.prod(shape) for path, shape in weights.items() if not path.startswith("blocks.")
    }


def shards(*networks) -> set[tuple[int, ...]]:
    """Shapes of a weight's shards: on one device, or gathered along the mesh's first axis (TPU)."""
    matrices = {shape[-2:] for weights in networks for shape in weights.values()}
    return {(rows, columns // parts) for rows, columns in matrices for parts in (DEVICES, 2)}


SIZE = {"bf16": 2, "f32": 4, "s32": 4, "pred": 1}


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    return SIZE[dtype] * math.prod(shape)


def gathered(found, of) -> int:
    """Bytes that a device receives of other devices' shards of weights."""
    return sum(
        times * size_of(dtype, shape) * (group - 1)
        for (kind, group, dtype, shape), times in found.items()
        if kind == "all-gather" and shape in of
    )


def others(found, weights, *kinds) -> int:
    """Bytes of the largest array in these kinds of collective that is not a weight."""
    return max(
        (
            size_of(dtype, shape)
            for kind, _, dtype, shape in found
            if kind in kinds and shape not in weights
        ),
        default=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("topology", TARGETS)
def test_a_training_step_gathers_weights_twice_and_sums_their_gradients_once(
    topology, tmp_path, exchanged
):
    """A layer's weights are gathered for the forward pass and again for remat; all others once.

    A device's tokens are 2 films of 5 segments (2 clean, 3 noisy) of 96 tokens of 512 channels.
    Everything else that is gathered or summed is smaller: prompts' tokens, keys and values, the
    velocity, sums over tokens.
    """
    trained = config(tmp_path)
    *_, found = exchanged(
        topology, 2, lambda mesh: training_steps(trained, FilmBatch.of(trained, **FILMS), mesh)
    )
    transformer, text = sharded_weights(Transformer, SIZES), sharded_weights(UMT5Encoder, TEXT)
    inside, outside = split(transformer)
    once = sum(outside.values()) + sum(
        math.prod(shape) for path, shape in text.items() if "token_embedding" not in path
    )
    weights = (2 * inside + once) * 2 * (DEVICES - 1) // DEVICES
    # The extra bytes if the weights outside of layers are gathered in float32.
    as_float32 = sum(outside.values()) * 2 * (DEVICES - 1) // DEVICES
    assert weights <= gathered(found, shards(transformer, text)) <= weights + as_float32

    tokens = 2 * 5 * 96 * SIZES.dim * 2
    exchanges = Counter(
        (group, size_of(dtype, shape))
        for (kind, group, dtype, shape), n in found.items()
        if kind == "all-to-all"
        for _ in range(n)
    )
    # q, k, v and the attention output: forward, recomputed, backward.
    assert exchanges == {(2, tokens): 3 * 4 * LAYERS}
    assert others(found, shards(transformer, text), "all-gather") < tokens / 2

    matrices = {shape[-2:] for shape in transformer.values()}
    summed = Counter()
    for (kind, group, dtype, shape), times in found.items():
        if (
            kind in ("all-reduce", "reduce-scatter")
            and group == DEVICES
            and dtype == "bf16"
            and shape in matrices
        ):
            summed[kind] += times * math.prod(shape)
    # Time weights have the same gradient on all devices of a row; the head's is float32.
    of_tokens = [path for path in outside if not FLOAT32.search(path)]
    assert summed.total() == inside + sum(outside[path] for path in of_tokens)
    if topology.startswith("h200"):
        assert summed["all-reduce"] == 0
        steering = sum(outside.values()) - sum(outside[path] for path in of_tokens)
        # The float32 gradients are one array.
        assert others(found, matrices, "all-reduce") < 4 * steering + tokens / 2
    else:
        # The TPU compiler makes few of the sums a reduce-scatter. The others are all-reduces, of
        # twice the bytes.
        assert summed["all-reduce"] >= summed["reduce-scatter"]
        assert others(found, matrices, "all-reduce") < tokens / 2
    # A layer's keys or values of prompts, whose gradient is a sum over all of a row's tokens.
    prompts = 2 * 5 * 16 * SIZES.dim
    kinds = ("all-reduce", "reduce-scatter")
    assert (
        sum(
            n
            for (kind, group, _, shape), n in found.items()
            if kind in kinds and group == 2 and math.prod(shape) == prompts
        )
        == 2 * LAYERS
    )


@pytest.mark.slow
@pytest.mark.parametrize("held", ["gathered", "sharded"])
@pytest.mark.parametrize("topology", TARGETS)
def test_a_rollouts_passes_gather_sharded_weights_and_its_pool_is_sharded_by_heads(
    topology, held, tmp_path, exchanged
):
    """One film with guidance, so two histories, on four devices.

    Each device has 48 tokens of a chunk, and the keys of all its tokens for one of four heads.
    """
    chosen = dataclasses.replace(config(tmp_path), rollout_weights=held)
    films = FilmBatch.of(chosen, **FILMS)
    step, account, found = exchanged(
        topology, DEVICES, lambda mesh: rollout_steps(chosen, films, mesh, PoolConfig(9))
    )
    transformer = sharded_weights(Transformer, SIZES)
    inside, outside = split(
        {path: shape for path, shape in transformer.items() if "text_embedding" not in path}
    )
    # The prompts' keys and values are arguments.
    inside -= sum(math.prod(transformer[f"blocks.cross_attn.{name}.weight"]) for name in "kv")
    passes = STEPS if held == "sharded" else 0
    weights = passes * (inside + sum(outside.values())) * 2 * (DEVICES - 1) // DEVICES
    as_float32 = passes * sum(outside.values()) * 2 * (DEVICES - 1) // DEVICES
    assert weights <= gathered(found, shards(transformer)) <= weights + as_float32
    tokens = 2 * 48 * SIZES.dim * 2
    exchanges = Counter(
        (group, size_of(dtype, shape))
        for (kind, group, dtype, shape), n in found.items()
        if kind == "all-to-all"
        for _ in range(n)
    )
    assert exchanges == {(DEVICES, tokens): 4 * LAYERS * STEPS}
    assert others(found, shards(transformer), "all-gather", "all-reduce") < tokens / 2
    # Keys and values of two histories of 9 frames.
    keys = 2 * LAYERS * 2 * 9 * 64 * SIZES.dim * 2
    whole, share = step.parts["pool"]
    assert keys < whole < 1.1 * keys and keys // DEVICES < share < 1.1 * keys // DEVICES
    # Including weights that this program does not use.
    given = sum(share for _, share in step.parts.values())
    assert given + account.results + account.temporaries + account.code <= account.total


@pytest.mark.slow
@pytest.mark.parametrize("topology", TARGETS)
def test_a_pool_in_host_memory_is_counted_there_with_what_is_copied(topology, tmp_path, exchanged):
    chosen = config(tmp_path)
    films = FilmBatch.of(chosen, **FILMS)
    commit = lambda mesh: rollout_steps(chosen, films, mesh, PoolConfig(15, on="host"))[1:]
    step, account, _ = exchanged(topology, DEVICES, commit)
    frame = LAYERS * 2 * 64 * SIZES.dim * 2  # keys and values of a history's frame
    assert step.host == {"pool": (2 * 15 * frame, 2 * 15 * frame // DEVICES)}
    # From the host: at most the frames that memory retrieves, in every layer. To the host: the
    # chunk. Each of two histories, a device's heads.
    assert account.copied == tuple(
        2 * frames * frame // DEVICES for frames in (chosen.memory.retrieved_frames, 3)
    )
