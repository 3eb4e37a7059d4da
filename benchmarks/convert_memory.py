"""Memory and speed of reading and converting a checkpoint: one direction per run.

    python benchmarks/convert_memory.py --to diffusers [--layers 2] [--scratch DIR]

Writes shards of random bfloat16 in the real sizes of --preset below --scratch, for its first
--layers layers (default: all, which is 29 GB for wan-14b). Then drops them from the page cache
and goes through them in one direction: read, load (into memory as a model), or model, diffusers,
orbax (as launch/convert.py --to). Everything written is removed again.

Prints one JSON object: MB/s, the peak of anonymous memory, how much of it was there before, and
what it ran on. Anonymous memory (RssAnon) leaves out mapped files, which the system can drop.
With a load average near the number of cores, or the policy "idle", the run had only the cycles
and disk time that others left. Linux only.
"""

import argparse
import dataclasses
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.cli import run
from causalcine_jax.convert import load_text_encoder, load_transformer, tables
from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.convert.diffusers_tables import key_table
from causalcine_jax.convert.safetensors_files import header
from causalcine_jax.convert.save import config_json
from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import Module
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.presets import preset
from causalcine_jax.utils.environment import device, software

SHARD_BYTES = 5 * 10**9
BLOCK_BYTES = 64 << 20
ROOM = 2.2  # disk space over the weights' size: the weights and their conversion
POLICIES = {os.SCHED_OTHER: "normal", os.SCHED_BATCH: "batch", os.SCHED_IDLE: "idle"}
PARTS = {
    "transformer": (Transformer, tables.TRANSFORMER),
    "text_encoder": (UMT5Encoder, tables.TEXT_ENCODER),
}
DIRECTIONS = ("read", "load", "model", "diffusers", "orbax")


def write_shards(part: str, config, naming: str, folder: Path) -> int:
    """Writes random tensors of a network in the files of its original or Diffusers' folder.

    Returns their bytes.
    """
    module_class, rules = PARTS[part]
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    places = tables.places(shapes, rules, getattr(config, "patch_size", ()))
    table = key_table(part, [place.key for place in places])
    specs = [
        (table.to_diffusers(p.key) if naming == "diffusers" else p.key, p.shape, "BF16")
        for p in places
    ]
    total = sum(2 * math.prod(shape) for _, shape, _ in specs)
    if shutil.disk_usage(folder).free < ROOM * total:
        raise DataError(
            f"{folder} has too little room: {ROOM * total / 1e9:.1f} GB are needed, "
            "for both sides; choose fewer --layers"
        )
    groups: list[list] = [[]]
    for spec in specs:
        if sum(2 * math.prod(shape) for _, shape, _ in groups[-1]) > SHARD_BYTES:
            groups.append([])
        groups[-1].append(spec)
    random = np.random.default_rng(0).bytes(BLOCK_BYTES)
    for number, group in enumerate(groups, 1):
        with open(folder / f"{part}-{number:05d}-of-{len(groups):05d}.safetensors", "wb") as out:
            out.write(header(group))
            left = sum(2 * math.prod(shape) for _, shape, _ in group)
            while left:
                left -= out.write(random[: min(left, BLOCK_BYTES)])
            out.flush()
            os.fsync(out.fileno())
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    (folder / "config.json").write_text(json.dumps(config_json(part, config)))
    word_tokenizer(["a", "fox"]).save(folder)
    return total


def read_all(folder: Path) -> None:
    """Reads every byte, block by block."""
    with open_tensors(folder) as tensors:
        for key in tensors.shapes:
            values = tensors.read(key).reshape(-1).view(np.uint16)
            for start in range(0, values.size, BLOCK_BYTES // 2):
                values[start : start + BLOCK_BYTES // 2].max()


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(
        next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]
    )


class Peak:
    """The peak of this process's anonymous memory inside the context, sampled every 5 ms."""

    def __enter__(self):
        self.before = self.bytes = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


def others() -> dict[str, Any]:
    """Returns the machine's load and this process's scheduling policy."""
    policy = os.sched_getscheduler(0)
    return {
        "cores": os.cpu_count(),
        "load_average_before": round(os.getloadavg()[0], 1),
        "scheduling": POLICIES.get(policy, str(policy)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--to", choices=DIRECTIONS, required=True, help="the direction to measure")
    parser.add_argument(
        "--naming",
        choices=("original", "diffusers"),
        default="original",
        help="keys of the shards to read",
    )
    parser.add_argument("--preset", choices=("wan-1.3b", "wan-14b"), default="wan-14b")
    parser.add_argument("--part", choices=tuple(PARTS), default="transformer")
    parser.add_argument("--layers", type=int, help="number of the preset's layers")
    parser.add_argument(
        "--scratch",
        default=".",
        help="folder on the disk to measure; needs 2.2 times the size of the weights",
    )
    args = parser.parse_args()
    config = getattr(preset(args.preset), args.part)
    config = dataclasses.replace(config, num_layers=args.layers or config.num_layers)
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="convert_memory.") as scratch:
        source, out = Path(scratch) / "source", Path(scratch) / "out"
        source.mkdir()
        size = write_shards(args.part, config, args.naming, source)
        machine = others()
        loaders: dict[str, Callable[..., Module]] = {
            "transformer": load_transformer,
            "text_encoder": load_text_encoder,
        }
        start = time.perf_counter()
        with Peak() as peak:
            if args.to == "read":
                read_all(source)
            elif args.to == "load":
                jax.block_until_ready(loaders[args.part](source, jnp.bfloat16))
            else:
                convert(ConvertConfig(source, out, to=args.to, progress=False))
        seconds = time.perf_counter() - start
    result = {
        "weights_bytes": size,
        "seconds": round(seconds, 2),
        "MB_per_second": round(size / 1e6 / seconds, 1),
        "peak_anonymous_MiB": round(peak.bytes / 2**20, 1),
        "of_which_before_MiB": round(peak.before / 2**20, 1),
    }
    asked = {
        "preset": args.preset,
        "part": args.part,
        "layers": config.num_layers,
        "naming": args.naming,
        "to": args.to,
    }
    ran_on = {"machine": machine, "device": device(), "software": software()}
    print(
        json.dumps({"benchmark": "convert_memory", **asked, "result": result, **ran_on}, indent=2)
    )


if __name__ == "__main__":
    run(main)
