"""Loading onto a mesh of four CPU devices: each reads only its slices; the model is the same."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from einops import rearrange
from repository import ROOT
from safetensors.numpy import save_file
from tiny_checkpoints import CONFIG_JSON, tensors

from causalcine_jax.convert import tables

ON_FOUR = """
import collections, json, sys
import jax, numpy as np
from causalcine_jax.convert import load_transformer, tables
from causalcine_jax.convert.tensor_files import TensorFiles
from causalcine_jax.parallel import mesh, sharding

sharding.SMALLEST_SHARDED = 1
per_device, total = collections.Counter(), 0
read_slice, make_array = TensorFiles.read_slice, jax.make_array_from_callback

def counting_read(self, key, index):
    global total
    part = read_slice(self, key, index)
    total += part.nbytes
    return part

def counting_make(shape, sharding, callback):
    devices = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        devices[str(index)].append(device.id)
    def counted(index):
        before, part = total, callback(index)
        per_device.update({device: total - before for device in devices[str(index)]})
        return part
    return make_array(shape, sharding, counted)

TensorFiles.read_slice, jax.make_array_from_callback = counting_read, counting_make
sharded = load_transformer(sys.argv[1], mesh=mesh.make_mesh())
single = load_transformer(sys.argv[1])
held = collections.Counter()
for (path, a), b in zip(tables.parameters(sharded).items(), jax.tree.leaves(single), strict=True):
    assert a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b)), path
    assert len(a.sharding.device_set) == 4 and len(b.sharding.device_set) == 1
    for shard in a.addressable_shards:
        held[shard.device.id] += shard.data.size
print(json.dumps({"read": per_device, "held": held}))
"""


def test_each_device_reads_its_own_slices(tmp_path):
    weights = tensors("transformer", ml_dtypes.bfloat16)
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_JSON))
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    for device in "0123":
        assert counted["read"][device] == 2 * counted["held"][device]
        # A quarter of the matrices, and all vectors, which are a large part of so small a model.
        assert counted["held"][device] < 0.31 * sum(tensor.size for tensor in weights.values())


@pytest.mark.parametrize(
    "rule",
    dict.fromkeys(tables.TRANSFORMER + tables.VAE + tables.TEXT_ENCODER),
    ids=lambda rule: rule.key,
)
def test_a_slice_in_our_layout_equals_that_slice_of_the_full_tensor(rule):
    rng = np.random.default_rng(0)
    sizes = {axis: 3 + i for i, axis in enumerate("oithwcd")} | {"six": 6, "two": 2, "1": 1}
    shape = (5, 4) if rule.torch == "..." else [sizes[axis] for axis in rule.torch.split()]
    tensor = rng.random(shape)
    whole = rule.to_ours(tensor)
    for _ in range(5):
        index = tuple(slice(*sorted(rng.integers(0, size + 1, 2))) for size in whole.shape)
        theirs, rest = rule.torch_slices(index)
        part = tensor[theirs]
        if part.size or "(" not in rule.ours:
            assert np.array_equal(
                rearrange(part, f"{rule.torch} -> {rule.ours}")[rest], whole[index]
            )
