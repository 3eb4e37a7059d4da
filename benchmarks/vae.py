"""Time of VAE encode and decode, whole and as a stream: `python benchmarks/vae.py [--model FOLDER] [--frames 117] [--size 48x80]`.

Without --model the weights are random, in the sizes of --preset. Prints one JSON object with milliseconds per call (best of
--repeats), frames per second, seconds of compilation, and what it ran on. CPU time counts all threads, so it is steady on a busy machine.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp

from causalcine_jax.config import PRESETS, preset
from causalcine_jax.convert import load_vae
from causalcine_jax.errors import UsageError
from causalcine_jax.generation.provenance import device, software
from causalcine_jax.models.vae import VAE

CHUNK_FRAMES = 3  # latent frames a stream decodes at a time


def measure(run, frames: int, repeats: int) -> dict[str, float]:
    start = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - start
    cpu, wall = [], []
    for _ in range(repeats):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        jax.block_until_ready(run())
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    best = min(wall)
    return {
        "wall_ms": round(1e3 * best, 1),
        "cpu_ms": round(1e3 * min(cpu), 1),
        "frames_per_second": round(frames / best, 1),
        "compile_seconds": round(first - best, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--model", help="a model folder or VAE folder; default: random weights")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="storyworld", help="sizes of random weights")
    parser.add_argument("--frames", type=int, default=117, help="video frames of the film, 4F - 3")
    parser.add_argument("--size", default="48x80", help="HEIGHTxWIDTH")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    dtype = jnp.dtype(args.dtype)
    if args.model:
        vae = load_vae(args.model, dtype)
    else:
        config = preset(args.preset).vae
        vae = jax.jit(lambda key: jax.tree.map(lambda p: p.astype(dtype), VAE(config, key=key)))(jax.random.key(0))
    height, width = map(int, args.size.split("x"))
    video = jax.random.uniform(jax.random.key(1), (1, args.frames, height, width, 3), dtype, -1, 1)
    latents = vae.encode(video)
    if latents.shape[1] <= CHUNK_FRAMES:
        raise UsageError(f"--frames {args.frames} is too short to stream; at least {4 * CHUNK_FRAMES + 1}")

    caches = [vae.decode_first(latents[:, :CHUNK_FRAMES])[1]]
    chunk = latents[:, -CHUNK_FRAMES:]

    def decode_next():
        decoded, cache = vae.decode_next(caches.pop(), chunk)
        caches.append(cache)
        return decoded

    results = {
        "encode": measure(lambda: vae.encode(video), args.frames, args.repeats),
        "decode": measure(lambda: vae.decode(latents), args.frames, args.repeats),
        "decode_next": measure(decode_next, 4 * CHUNK_FRAMES, args.repeats),
    }
    sizes = {name: getattr(vae.cfg, name) for name in ("dim", "dim_mult", "num_res_blocks", "z_dim")}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(vae))
    print(json.dumps({"benchmark": "vae", "film": [args.frames, height, width], "vae": {**sizes, "parameters": parameters, "dtype": args.dtype},
                      "results": results, "device": device(), "software": software()}, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
