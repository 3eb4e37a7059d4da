"""The cases of a race: films of one network, each side with its own receptive field."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from causalcine_jax.config import MemoryConfig
from causalcine_jax.families import Family, family
from causalcine_jax.network_sizes import TransformerConfig

PEER: Family = family("self-forcing")
CHUNK_FRAMES = PEER.chunk_frames
assert PEER.sampler.step_list is not None
STEP_LIST = PEER.sampler.step_list
NETWORK = TransformerConfig(
    dim=512, ffn_dim=2048, num_heads=4, num_layers=8, text_dim=512, text_len=64
)


@dataclass(frozen=True)
class RaceCase:
    """A film that both sides make.

    chunks   number of chunks
    grid     rows and columns of tokens in a latent frame
    theirs   latent frames that a chunk attends to in Self-Forcing's rollout, its own included
    memory   what a chunk attends to in our rollout
    """

    chunks: int
    grid: tuple[int, int]
    theirs: int
    memory: MemoryConfig
    network: TransformerConfig = NETWORK

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "RaceCase":
        """Inverse of `to_dict`."""
        network = data["network"] | {"patch_size": tuple(data["network"]["patch_size"])}
        memory, network = MemoryConfig(**data["memory"]), TransformerConfig(**network)
        return cls(data["chunks"], tuple(data["grid"]), data["theirs"], memory, network)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        network = dataclasses.asdict(self.network) | {"patch_size": list(self.network.patch_size)}
        fields = {"chunks": self.chunks, "grid": list(self.grid), "theirs": self.theirs}
        return fields | {"memory": dataclasses.asdict(self.memory), "network": network}

    @property
    def tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.grid[0] * self.grid[1]

    def frames(self, side: str) -> int:
        """Returns how many latent frames the film's last chunk attends to, its own included.

        `side` is ours or theirs.
        """
        ours = (self.memory.window_chunks + 1) * CHUNK_FRAMES + self.memory.retrieved_frames
        return min(self.chunks * CHUNK_FRAMES, self.theirs if side == "theirs" else ours)

    @property
    def chunk_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of a chunk's latents, [1, f, h, w, c]."""
        _, rows, columns = self.network.patch_size
        return (1, CHUNK_FRAMES, rows * self.grid[0], columns * self.grid[1], self.network.in_dim)

    @property
    def same_chunks(self) -> int:
        """Number of first chunks for which both sides attend to the same frames."""
        return (
            min(self.chunks, self.memory.window_chunks + 1)
            if self.memory.retrieved_frames
            else self.chunks
        )


WHOLE = PEER.memory
SAME = MemoryConfig("none", window_chunks=3, memory_frames=0, positions="absolute")
ROUTED = MemoryConfig()
# Rows and columns of tokens, and layers. Films of larger frames would take minutes, so their
# network has half as many layers.
SIZES = {160: ((10, 16), 8), 390: ((15, 26), 4)}
CASES = {
    f"{name}-{tokens}": RaceCase(
        chunks, grid, theirs, memory, dataclasses.replace(NETWORK, num_layers=layers)
    )
    for tokens, (grid, layers) in SIZES.items()
    for name, chunks, theirs, memory in (
        ("whole", 7, 21, WHOLE),
        ("same", 20, 12, SAME),
        ("routed", 20, 12, ROUTED),
    )
}


def precision(dtype: str) -> dict[str, str]:
    """The variable by which jax multiplies as torch does: on GPUs its default is TF32."""
    return {"JAX_DEFAULT_MATMUL_PRECISION": "highest"} if dtype == "float32" else {}
