"""Which fields of a config make a training step, or what comes before it, smaller."""

from causalcine_jax.parallel.mesh import divisors
from causalcine_jax.training.config import TrainConfig


def smaller_step(config: TrainConfig, devices: int) -> dict[str, str]:
    """Flag -> why it needs less memory, the cheapest first; without batch and length of films."""
    if config.facts.clips:
        return {
            "--config.autoencoder.crop=(H,W)": "trains on smaller parts of the pictures",
            "--config.data.clip_frames=N": "trains on shorter clips",
        }
    found = {}
    if not config.remat:
        found["--config.remat=True"] = "keeps only the residual stream between layers"
    elif config.remat_layers == 1:
        layers = _root(config.transformer.num_layers)
        found[f"--config.remat_layers={layers}"] = f"keeps it only before every {layers} layers"
    if not config.segments_at_once:
        found["--config.segments_at_once=8"] = (
            "gathers and attends to the fields of 8 chunks at once"
        )
    films = config.batch // config.optim.accumulation * config.seq // devices
    if films > 1:
        more = f"accumulation={config.optim.accumulation * films}"
        critic = f" --config.critic_optim.{more}" if config.stage == "dmd" else ""
        found[f"--config.optim.{more}{critic}"] = f"takes one film at a time instead of {films}"
    if config.stage == "ode_init" and config.ode.times_at_once != 1:
        found["--config.ode.times_at_once=1"] = "processes a trajectory's times one after the other"
    if config.stage == "ode_init" and not config.ode.store:
        found["--config.ode.store=FOLDER"] = (
            "reads the teacher's trajectories instead of keeping the teacher and its history"
        )
    if config.stage == "dmd":
        if not config.self_forcing.recommit:
            found["--config.self_forcing.recommit=True"] = (
                "recomputes the rollout's history instead of keeping it while the film is scored"
            )
        if config.self_forcing.grad_frames != config.chunk_frames:
            found["--config.self_forcing.grad_frames=N"] = (
                "limits the gradient to fewer of a film's frames"
            )
        if config.gan.on:
            found["--config.gan.generator_weight=0"] = "leaves out the head's passes"
    return found


def smaller_trajectories(config: TrainConfig, devices: int) -> list[str]:
    """The flags, cheapest first, that need less memory while a store of trajectories is made."""
    found = []
    if config.ode.batch > 1:
        found.append("--config.ode.batch=1")
    if config.rollout_weights == "gathered" and devices > 1:
        found.append("--config.rollout_weights=sharded")
    if not config.segments_at_once:
        found.append("--config.segments_at_once=8")
    if config.seq < devices:  # the history of a whole film is what needs most
        found.append(f"--config.seq=N above {config.seq}")
    return found


def _root(layers: int) -> int:
    """The divisor nearest the square root: groups of that many layers keep the least memory."""
    return min(divisors(layers), key=lambda n: n + layers // n)
