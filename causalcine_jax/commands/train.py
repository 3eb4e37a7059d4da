"""Trains one stage: `causalcine train --config configs/base.py --config.optim.lr=3e-5`.

    --config FILE           a file of configs/
    --config.KEY=VALUE      another value of one of its fields
    --print_config          print the resolved config as JSON and stop
    --force                 resume a run although its config has changed
    --compile_cache DIR     keep compiled programs in DIR (default: in the user's cache directory;
                            of several processes, in none: name a folder that all share)
    --no_compile_cache      compile everything again and keep nothing

SIGTERM and Ctrl-C save and stop the run, with exit code 75. The same command goes on with it. Two
runs at once with the same config.out are refused.

One run by several processes (hosts): the same command in each, with JAX_NUM_PROCESSES,
JAX_PROCESS_ID and JAX_COORDINATOR_ADDRESS=HOST:PORT, or with JAX_COORDINATOR_PORT alone on clusters
that jax knows. launch/slurm.sh, tpu_pod.sh and gke.yaml set these.
"""

import importlib.util
import math
import os
import sys
from pathlib import Path

from causalcine_jax.cli import cores, refuse_repeated
from causalcine_jax.errors import DataError, StoppedEarly, UsageError
from causalcine_jax.utils.compile_cache import keep_compiled


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return
    refuse_repeated(arguments)
    import dataclasses
    import json

    _quiet_orbax()
    _tune_xla()
    from causalcine_jax.training.flags import parse

    config, options = parse(arguments)
    text = json.dumps(dataclasses.asdict(config), indent=2)
    if options.print_config:
        print(text)
        return
    from causalcine_jax.training.flag_checks import check_flags

    check_flags(arguments, config)
    import jax

    from causalcine_jax.parallel import processes

    with processes.joined():
        alone = not jax.distributed.is_initialized()
        if alone and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            # Split a CPU into one device per core, as far as the batch divides. A core per film is
            # a fifth faster than all cores on each product. Several processes are one device each.
            micro = [config.batch // optim.accumulation for optim in config.optims]
            seq = config.seq if config.seq <= len(cores()) else 1  # else the mesh refuses it
            jax.config.update("jax_num_cpu_devices", seq * math.gcd(len(cores()) // seq, *micro))
        keep_compiled(options.compile_cache, options.no_compile_cache)
        if alone or processes.is_first():
            print(text, flush=True)
        from causalcine_jax.training.loop import train

        try:
            reached = int(train(config, force=options.force).step)
        except UsageError as error:
            if alone:
                raise
            # Exit code 2 is for what a restart cannot mend. Among several processes a lock of a
            # lost host, or a file not yet seen by another, is mended by one.
            raise DataError(str(error)) from error
    # Outside of the processes' context, which takes an exception for a failure of this one alone.
    if reached < config.steps:
        raise StoppedEarly(f"stopped at step {reached} of {config.steps}")


def _quiet_orbax() -> None:
    """Keeps from stderr what orbax logs and then raises, and errors of writes nobody awaits.

    After a failed save tensorstore finishes its other writes, and finds orbax's event loop closed.
    """
    import logging

    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    hook = sys.unraisablehook

    def unraisable(what) -> None:
        if str(what.exc_value) != "Event loop is closed":
            hook(what)

    sys.unraisablehook = unraisable


def _tune_xla() -> None:
    """Sets what jax reads when it is imported, or starts its devices."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no notes about other people's hardware
    for name, value in cpu_threads().items():
        os.environ.setdefault(name, value)


def cpu_threads() -> dict[str, str]:
    """NPROC, the number of threads of XLA's CPU client, by default one per core; {} on GPUs.

    A collective blocks its thread until all devices join it. With as many devices as threads, two
    collectives in different orders would deadlock. On a GPU's host it would be the number of
    threads that compile, in each of the host's processes, so it is left alone there.
    """
    on_cpu = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
    if not on_cpu and Path("/dev/nvidia0").exists() and _finds_cuda():
        return {}
    return {"NPROC": str(4 * len(cores()))}


def _finds_cuda() -> bool:
    """Whether jax has a plugin for NVIDIA's cards."""
    plugins = importlib.util.find_spec("jax_plugins")
    folders = plugins.submodule_search_locations or () if plugins else ()
    return any(any(Path(folder).glob("xla_cuda*")) for folder in folders)
