"""Time of one attention call, by back end: `python benchmarks/attention.py [--batch 76 --queries 45 --keys 255 --heads 4 --head-dim 32]`.

The default shape is a step of configs/base.py: 4 films x 19 segments. Prints one JSON object with CPU and wall milliseconds of the forward
and of forward and backward; CPU time counts all threads, so it is steady on a busy machine.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp

from causalcine_jax.generation.provenance import device, software
from causalcine_jax.models import attention


def milliseconds(run, repeats: int = 10) -> dict[str, float]:
    """The best of `repeats` calls."""
    jax.block_until_ready(run())
    cpu, wall = [], []
    for _ in range(repeats):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        jax.block_until_ready(run())
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    return {"cpu_ms": round(1e3 * min(cpu), 2), "wall_ms": round(1e3 * min(wall), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    for name, default in (("batch", 76), ("queries", 45), ("keys", 255), ("heads", 4), ("head-dim", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    make = lambda seed, length: jax.random.normal(jax.random.key(seed), (args.batch, length, args.heads, args.head_dim), args.dtype)
    q, k, v = make(0, args.queries), make(1, args.keys), make(2, args.keys)
    lengths = jnp.full((args.batch,), args.keys - args.keys // 4, jnp.int32)
    flops = 4 * args.batch * args.heads * args.queries * args.keys * args.head_dim
    results = {}
    for backend in {*attention.BACKENDS["gpu"], *attention.BACKENDS["cpu"]}:
        forward = jax.jit(lambda q, k, v, call=backend: call(q, k, v, lengths))
        both = jax.jit(jax.grad(lambda q, k, v, call=backend: jnp.sum(call(q, k, v, lengths).astype(jnp.float32) ** 2), argnums=(0, 1, 2)))
        try:
            results[backend.__name__.strip("_")] = {
                "forward": milliseconds(lambda run=forward: run(q, k, v)),
                "forward_and_backward": milliseconds(lambda run=both: run(q, k, v)),
            }
        except (NotImplementedError, RuntimeError, ValueError) as reason:
            results[backend.__name__.strip("_")] = {"cannot": str(reason).splitlines()[0]}
    shape = {name: getattr(args, name) for name in ("batch", "queries", "keys", "heads", "head_dim", "dtype")}
    print(json.dumps({"benchmark": "attention", "shape": shape, "forward_gflop": flops / 1e9, "results": results,
                      "device": device(), "software": software()}, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
