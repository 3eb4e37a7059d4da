"""What all sessions of a server share."""

from concurrent.futures import Executor
from dataclasses import dataclass

from causalcine_jax.serve.engine import Engine
from causalcine_jax.serve.limits import SessionLimits
from causalcine_jax.serve.metrics import Metrics
from causalcine_jax.serve.worker import Worker


@dataclass(frozen=True)
class DeskResources:
    """The engine, the device's thread, the threads that encode, and the limits."""

    engine: Engine
    worker: Worker
    encoders: Executor
    limits: SessionLimits
    metrics: Metrics
