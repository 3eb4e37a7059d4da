"""Settings of memory, of a pass and of a pool, as frozen dataclasses.

Validation reports all faults of a config at once. network_sizes.py has the networks' sizes.
"""

from dataclasses import dataclass, replace

from causalcine_jax.errors import choice_faults, raise_faults, range_faults
from causalcine_jax.memory_policies import POLICIES

SOLVERS = ("unipc", "euler", "few_step")  # diffusion/solvers.py
POSITIONS = ("block_relative", "absolute")
AFTER_CUT = "after_cut"  # positions of the one chunk after a cut that flushes (film/cut.py)
AT_CUT = ("keep", "recache", "flush")
MOST_HISTORY = 10**8  # chunks or latent frames: a year of film; indices have 32 bits
EVICTIONS = ("oldest", "least_retrieved")
# Dtypes of the networks at generation. float8: bfloat16, with the matrices of the transformer's
# blocks in eight bits (models/float8.py).
DTYPES = ("float32", "bfloat16", "float8")
# Dtypes of the cached keys and values: the model's, or one byte each (models/cache/quantised.py).
KV_DTYPES = ("same", "int8", "fp8")
POOL_PLACES = ("device", "host")  # where the cached keys and values are (models/cache/history.py)
# A frame has at most so many descriptors (MemoryConfig.parts). Wan2.1's at 480p have 15, each of
# two rows of tokens.
MOST_PARTS = 16
# Share of an NVIDIA GPU's memory that JAX preallocates (cli.py); its own default is 0.75. This is a
# choice: the rest is for NCCL, cuDNN and compiled programs.
GPU_MEMORY = 0.92
# Layout of a network that makes many passes on several devices (parallel/sharding.py).
ROLLOUT_WEIGHTS = ("gathered", "sharded")


@dataclass(frozen=True)
class MemoryConfig:
    """Which history a chunk attends to (paper 3.3). Counts are in chunks or latent frames.

    policy         which older frames are retrieved, a name in memory_policies.POLICIES
    window_chunks  W: this many chunks before the current one are always attended to
    memory_frames  K: the policy retrieves this many older frames
    sink_frames    of these, so many are the film's first frames; of no effect under policy none
    route_clean    True: clean chunks use the bounded field that a commit uses. False: clean chunks
                   and commits see all earlier chunks (the paper's wording for the packed pass)
    positions      block_relative (places in the field) or absolute (true distance in the film)
    eviction       which chunk a full cache drops, never the sink or the window: the oldest, or the
                   least_retrieved (models/cache/eviction.py). It applies only to a rollout whose
                   cache is shorter than its film
    at_cut         what a shot's start does to the history of a rollout (film/cut.py): keep it,
                   recache it under the new prompt, or flush it. Training always keeps it; the films
                   of its models do as this says
    """

    policy: str = "camr"
    window_chunks: int = 3
    memory_frames: int = 5
    route_clean: bool = True
    positions: str = "block_relative"
    eviction: str = "oldest"
    sink_frames: int = 0
    at_cut: str = "keep"

    def __post_init__(self):
        raise_faults("memory", self.faults())

    def faults(self) -> list[str]:
        faults = choice_faults("policy", self.policy, POLICIES)
        if self.positions != AFTER_CUT:
            faults += choice_faults("positions", self.positions, POSITIONS)
        faults += choice_faults("eviction", self.eviction, EVICTIONS)
        faults += choice_faults("at_cut", self.at_cut, AT_CUT)
        if not 0 <= self.sink_frames <= max(0, self.memory_frames):
            faults.append(
                f"sink_frames must be between 0 and memory_frames {self.memory_frames}, "
                f"got {self.sink_frames}"
            )
        for name in ("window_chunks", "memory_frames"):
            faults += range_faults(name, getattr(self, name), 0, MOST_HISTORY)
        return faults

    @property
    def window_only(self) -> "MemoryConfig":
        """The same window without memory."""
        return replace(self, policy="none")

    @property
    def retrieved_frames(self) -> int:
        """K under this policy: 0 if it retrieves nothing."""
        return self.memory_frames if POLICIES[self.policy].score else 0

    @property
    def reaches_all(self) -> bool:
        """Whether any frame of the film may be retrieved, so that every eviction loses some."""
        return POLICIES[self.policy].reaches_all and self.memory_frames > self.sink_frames

    def parts(self, tokens: int) -> int:
        """Into how many equal parts routing divides a frame of `tokens` tokens."""
        if not POLICIES[self.policy].by_parts:
            return 1
        return max(parts for parts in range(1, MOST_PARTS + 1) if tokens % parts == 0)

    @property
    def first_frames(self) -> int:
        """The film's first frames that are always retrieved: all K under a policy of those only."""
        first_only = POLICIES[self.policy].first_only
        return self.memory_frames if first_only else min(self.sink_frames, self.retrieved_frames)

    def smallest_pool(self, chunk_frames: int) -> int:
        """Fewest frame slots of a cache that evicts: the window, the sink and one chunk to drop."""
        return (self.window_chunks + self.protected_chunks(chunk_frames) + 1) * chunk_frames

    def protected_chunks(self, chunk_frames: int) -> int:
        """How many first chunks are never evicted: they hold as many frames as are retrieved."""
        return -(-self.retrieved_frames // chunk_frames)


@dataclass(frozen=True)
class PassConfig:
    """How a pass through the transformer runs: in training, in a rollout, or for scores.

    memory            which history a chunk attends to
    chunk_frames      C, latent frames per chunk
    remat             layers that the backward pass recomputes together, from the tokens before
                      them; 0: it keeps all activations that it needs. With 1 it also keeps what
                      self-attention's kernel gave (models/attention/kept.py)
    segments_at_once  chunks whose fields are gathered and attended to at once (None: all). With
                      remat, the backward pass does the same, and repeats attention that is not
                      kept
    features          layers whose output tokens of the noisy chunks are also returned
    """

    memory: MemoryConfig = MemoryConfig()
    chunk_frames: int = 3
    remat: int = 0
    segments_at_once: int | None = None
    features: tuple[int, ...] = ()


@dataclass(frozen=True)
class PoolConfig:
    """How much history a rollout keeps, how it is stored, and where.

    frames    latent frames, in whole chunks; memory.eviction drops the excess. None: all that
              memory can still retrieve, the whole story's if its policy reaches all frames
    gb        the cache's size in GB (10^9 bytes) instead: as many whole chunks as fit
    kv_dtype  of keys and values: "same" as the model's weights, "int8" or "fp8"
              (cache/quantised.py)
    on        what memory they are in: "device", or "host" for a history larger than the device's
              (cache/history.py)
    """

    frames: int | None = None
    gb: float | None = None
    kv_dtype: str = "same"
    on: str = "device"

    def __post_init__(self):
        faults = []
        if self.frames is not None and self.gb is not None:
            faults.append(
                f"pool_frames={self.frames} and pool_gb={self.gb:g} both set the pool's size: "
                "give one of them"
            )
        faults += choice_faults("kv_dtype", self.kv_dtype, KV_DTYPES)
        faults += choice_faults("pool_on", self.on, POOL_PLACES)
        raise_faults("pool", faults)
