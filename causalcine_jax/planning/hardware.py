"""Hardware that a program can be compiled for without owning it: memory, speeds, topology.

    target("v5p:4x4x4") -> HardwareTarget -> target_devices(target): devices to compile for only

The numbers are published peaks. TPUs, from Google's pages: memory, bf16 FLOP/s and memory
bandwidth. The speed per link and direction is that of jax-ml/scaling-book, part 2. By Google's
pages, v5p and v5e have a ninth more: half of a chip's interconnect, divided by its links. Google
does not publish how fast a TPU reads its host's memory.

GPUs, from NVIDIA's data sheets of H100 and H200 (SXM): 80 and 141 GB; 989 TFLOP/s of dense bf16 and
1979 of float8; 3.35 and 4.8 TB/s. NVLink has 450 GB/s each way, PCIe gen 5 x16 has 64 GB/s each
way. Each GPU has a network card of 400 Gbit/s, as in a DGX. One H200 measured 790 TFLOP/s in a bf16
product and 4.3 TB/s.
"""

import math
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from causalcine_jax.config import GPU_MEMORY
from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.parallel.sharding import AXES
from causalcine_jax.planning.compilers import check_installed, clear_faults
from causalcine_jax.utils.machine_memory import GB

# What an H200 reports to a compiler, numbers only. Source:
# `jax.experimental.topologies.get_attached_topology().target_config` on a machine with one. An
# H100 is assumed to differ in its memory only (data sheet: 80 GB, 3.35 TB/s); none was queried.
# The versions are those of the CUDA 13 packages. Without them the compiler assumes an old CUDA, and
# widens float8 products to float16.
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {installed:.0f}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  driver_version: "13.0.0"
  dnn_version: "9.12.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 }}
device_description_str: "{name}"
"""


@dataclass(frozen=True)
class Chip:
    """One device.

    memory     bytes that a program may use: on a TPU what its compiler allows, on a GPU the share
               that every command gives JAX (cli.py)
    flops      bf16 FLOP/s at peak
    float8     float8 FLOP/s at peak; 0 without such products
    bandwidth  of its memory, bytes per second
    link       bytes per second each way: of one link to a neighbour (TPU), or of all links to the
               switch (GPU)
    network    GPU only: bytes per second each way of the GPU's card to other nodes
    host       bytes per second each way to the host's memory; 0: not published
    wraps      TPU only: a side of the topology closes to a ring if it is a multiple of this
    shapes     topologies that exist: sides in chips (TPU), nodes x GPUs (GPU); the first is the
               default
    described  GPU only: what it reports to a compiler
    """

    platform: str
    memory: int
    flops: float
    bandwidth: float
    link: float
    shapes: tuple[str, ...]
    network: float = 0.0
    wraps: int = 0
    host: float = 0.0
    described: str = ""
    float8: float = 0.0


def _hopper(name: str, installed: int, bandwidth: float) -> Chip:
    """An SXM GPU of the Hopper generation, in nodes of eight.

    Args:
      installed: bytes of memory.
      bandwidth: of that memory, bytes per second.
    """
    return Chip(
        "gpu",
        int(GPU_MEMORY * installed),
        989e12,
        bandwidth,
        450 * GB,
        ("1x8", "1x1", "1x2", "1x4", "2x8", "4x8", "8x8", "16x8", "32x8"),
        network=50 * GB,
        host=64 * GB,
        described=HOPPER.format(name=name, installed=installed, bandwidth=bandwidth),
        float8=1979e12,
    )


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x16", "16x16")
_CUBES = ("4x4x4", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x8", "4x8x8", "8x8x8")
CHIPS = {
    "v5p": Chip("tpu", int(95.74 * 2**30), 459e12, 2765 * GB, 90 * GB, _CUBES, wraps=4),
    "v6e": Chip("tpu", int(31.25 * 2**30), 918e12, 1640 * GB, 90 * GB, ("8x8", *_FLAT), wraps=16),
    "v5e": Chip("tpu", int(15.75 * 2**30), 197e12, 819 * GB, 45 * GB, ("8x8", *_FLAT), wraps=16),
    "h200": _hopper("NVIDIA H200 141GB HBM3e", 151397597184, 4800 * GB),
    "h100": _hopper("NVIDIA H100 80GB HBM3", 84978434048, 3352 * GB),
}


@dataclass(frozen=True)
class HardwareTarget:
    """Chips in a topology: name such as v5p:4x4x4, sides (4, 4, 4)."""

    name: str
    chip: Chip
    sides: tuple[int, ...]

    @property
    def devices(self) -> int:
        return math.prod(self.sides)

    @property
    def domain(self) -> int:
        """Devices joined by fast links: a node's GPUs, or all chips of a TPU slice."""
        return self.sides[-1] if self.chip.platform == "gpu" else self.devices

    @property
    def fabric(self) -> float:
        """Bytes per second that each device sends over fast links while all send.

        A TPU mesh that does not close to a torus is limited by its corners. Slices of v5p close
        where they are made of whole cubes of 4x4x4, along all sides or along none.
        """
        if self.chip.platform == "gpu":
            return self.chip.link
        closes = [side % self.chip.wraps == 0 for side in self.sides]
        if len(self.sides) == 3:
            closes = [all(closes)] * 3
        return self.chip.link * sum(
            2 if close else 1 for side, close in zip(self.sides, closes) if side > 1
        )


def known_topologies() -> list[str]:
    return [f"{name}:{shape}" for name, chip in CHIPS.items() for shape in chip.shapes]


def target(name: str) -> HardwareTarget:
    """The target called `name`: a chip and its topology, or a chip alone.

    Raises:
      UsageError: unknown; lists the known ones.
    """
    chip_name, _, shape = name.partition(":")
    chip = CHIPS.get(chip_name)
    if chip is None or (shape and shape not in chip.shapes):
        hint = nearest(name, known_topologies())
        listed = "" if hint.startswith("known") else f"; known: {', '.join(known_topologies())}"
        raise UsageError(f"unknown topology {name!r}, {hint}{listed}")
    shape = shape or chip.shapes[0]
    return HardwareTarget(f"{chip_name}:{shape}", chip, tuple(map(int, shape.split("x"))))


def target_devices(target: HardwareTarget) -> list:
    """Devices to compile for.

    Raises:
      UsageError: the compiler for them is not installed; names the install command.
      DataError: it is, but does not start.
    """
    from jax.experimental import topologies

    platform = target.chip.platform
    check_installed(platform, target.name)
    with clear_faults(platform, target.name, "its start"):
        if platform == "tpu":
            return list(topologies.get_topology_desc(target.name, platform="tpu").devices)
        nodes, gpus = target.sides
        found = topologies.get_topology_desc(
            target.name,
            platform="cuda",
            target_config=target.chip.described,
            topology=f"1x{nodes}x{gpus}",
        )
        return list(found.devices)


def target_mesh(target: HardwareTarget, seq: int = 1) -> Mesh:
    """The target's devices as a mesh [devices / seq, seq].

    Raises:
      UsageError: `seq` does not divide the devices; names the values that do.
    """
    if seq < 1 or target.devices % seq:
        legal = ", ".join(str(n) for n in range(1, target.devices + 1) if target.devices % n == 0)
        raise UsageError(
            f"{target.name} has {target.devices} devices, which cannot be split into groups of "
            f"seq={seq}: {legal} can be"
        )
    return Mesh(np.asarray(target_devices(target)).reshape(-1, seq), AXES)
