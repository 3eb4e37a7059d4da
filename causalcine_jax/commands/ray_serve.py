"""The director's desk on several machines: `causalcine serve` as Ray Serve applications.

    causalcine ray_serve --replicas 2 --mock          a cluster on this machine, until Ctrl-C
    causalcine ray_serve --address auto --replicas 4 --gpus 8 --token ... --projects /mnt/films
    causalcine ray_serve --address auto --drain 1     replica 1 ends; others go on with its films

Every replica has a desk under a prefix of its own, /0/, /1/ and so on; the printed address leads to
the one with the fewest films. All share --projects, on storage that their hosts mount. With
--address, replicas that run already stay as they are. Needs the extra [ray].
"""

import argparse
import functools
import secrets
import sys
import threading

from causalcine_jax.cli import ArgumentParser, whole_number
from causalcine_jax.commands.serve import address, desk_flags, desk_of, refuse_faults
from causalcine_jax.errors import UsageError
from causalcine_jax.utils.ray_cluster import LOCAL, join, needs_ray

PORT = 8000


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine ray_serve", description=__doc__)
    desk_flags(parser)
    parser.add_argument("--port", type=whole_number, default=PORT, help=f"default {PORT}")
    parser.add_argument(
        "--address",
        help="Ray cluster to use; auto: the cluster of this machine (default: start one)",
    )
    parser.add_argument("--replicas", type=whole_number, default=1, help="number (default 1)")
    parser.add_argument("--drain", type=whole_number, metavar="NUMBER", help="replica to end")
    for device, default in (("cpus", 1), ("gpus", 0), ("tpus", 0)):
        parser.add_argument(
            f"--{device}",
            type=whole_number,
            default=default,
            help=f"{device} of each replica (default {default})",
        )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    refuse_faults(flags)
    if flags.replicas < 1 or min(flags.cpus, flags.gpus, flags.tpus) < 0:
        raise UsageError("--replicas must be at least 1; --cpus, --gpus and --tpus at least 0")
    if flags.address and flags.drain is None and flags.token is None:
        raise UsageError("--address needs --token: replicas that are added later share it")
    if flags.drain is not None and not flags.address:
        raise UsageError("--drain needs --address, of the cluster with that replica")
    flags.token = flags.token or secrets.token_urlsafe(24)
    flags.projects = flags.projects.absolute()
    with needs_ray():
        import ray

        from causalcine_jax.serve import replicas
    join(flags.address or LOCAL)
    if flags.drain is not None:
        return replicas.drain(flags.drain)
    shared = replicas.Shared(
        functools.partial(desk_of, flags), flags.token, (*flags.allow_host, flags.host)
    )
    devices = {"CPU": flags.cpus, "GPU": flags.gpus, "TPU": flags.tpus}
    if lacks := lacking(devices, flags.replicas, ray.cluster_resources()):
        if not flags.address:
            raise UsageError(f"{lacks}: ask for fewer")
        print(f"note: {lacks}; replicas without them wait for more hosts", file=sys.stderr)
    replicas.listen(flags.host, flags.port)
    sockets = flags.max_sessions * (1 + flags.viewers)
    replicas.deploy(shared, flags.replicas, devices, sockets)
    print(address(flags.host, flags.port, flags.token), flush=True)
    if not flags.address:
        threading.Event().wait()


def lacking(devices: dict[str, int], count: int, there: dict[str, float]) -> str:
    """Which of the devices that each of `count` replicas takes the cluster has too few of."""
    return "; ".join(
        f"{count} replicas take {count * each} {name}s, and the cluster has {there.get(name, 0):g}"
        for name, each in devices.items()
        if count * each > there.get(name, 0)
    )
