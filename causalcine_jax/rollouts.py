"""The rollouts of other causal video models, as settings of ours: Table 1 of the paper.

    ROLLOUTS["longlive"].memory    what a chunk sees, and what a new prompt does to history

Released weights of these models refer to it (families.py). `causalcine film --rollout-of NAME`
takes it for any model. The experiment `table1` measures one model's weights under each.

Sizes are those of the authors' code. A window here is of whole chunks of 3 frames, without the
chunk's own; "local attention of n frames" of their code counts the sink and the own chunk.
"""

from dataclasses import dataclass

from causalcine_jax.config import MemoryConfig


@dataclass(frozen=True)
class RolloutPreset:
    """How a model's authors run it.

    title   the model's name in Table 1
    memory  the settings
    paper   where it is from
    about   what it does, in words
    doubts  what is done otherwise here, and where paper and code are silent or disagree
    """

    title: str
    memory: MemoryConfig
    paper: str
    about: str
    doubts: str


ROLLOUTS = {
    "causalcine": RolloutPreset(
        "CausalCine",
        MemoryConfig(),
        "the paper",
        "A window of 9 frames, the 5 older frames whose keys match the chunk's queries best, and "
        "places in the field as positions. History keeps the prompt it was made under.",
        "Clean chunks see the bounded field too (docs/memory.md).",
    ),
    "self-forcing": RolloutPreset(
        "Self-Forcing",
        MemoryConfig("none", window_chunks=6, memory_frames=0, positions="absolute"),
        "arXiv 2506.08009",
        "A window of 18 frames, 21 with the chunk's own, and no memory.",
        "It was trained on films of 21 latent frames under one prompt. What a new prompt does is "
        "not in its paper; here history keeps the prompt it was made under.",
    ),
    "infinity-rope": RolloutPreset(
        "Infinity-RoPE",
        MemoryConfig("sink", window_chunks=1, memory_frames=1, at_cut="flush"),
        "arXiv 2511.20649",
        "The first frame as a sink, a window of 3 frames, and places in the field as positions. "
        "At a cut, sink and last chunk are kept. The new shot's first chunk has the positions 45 "
        "to 47, counted from the sink (RoPE cut).",
        "Its code keeps the last 2 frames, not 3; its paper says one. The released config has "
        "local attention of 6 frames, so the KV flush keeps all that the next chunk would see "
        "anyhow, as here. Its sink's key is rotated once and then frozen.",
    ),
    "longlive": RolloutPreset(
        "LongLive",
        MemoryConfig(
            "sink", window_chunks=2, memory_frames=3, positions="absolute", at_cut="recache"
        ),
        "arXiv 2509.22622",
        "The first 3 frames as a sink, and a window of 6. At a new prompt the last 12 frames are "
        "committed again under it; the sink stays as it was.",
        "Here they are committed chunk by chunk. Its code prepares a mask for that, but the pass "
        "that reads a cache leaves it out, so the 12 frames see each other. Its weights were "
        "trained with re-caching.",
    ),
    "memflow": RolloutPreset(
        "MemFlow",
        MemoryConfig(
            "prompt",
            window_chunks=2,
            memory_frames=6,
            positions="absolute",
            sink_frames=3,
            at_cut="recache",
        ),
        "arXiv 2512.14699",
        "LongLive's window, sink and re-caching, and a bank of 3 older frames: those whose keys "
        "match the prompt's keys best, in each layer.",
        "Its bank is kept as the film goes on. Every third chunk offers its first frame, which "
        "stays until the next one is offered, and a frame that was dropped does not return. Here "
        "any older frame may be chosen for any chunk. Its routing of queries to the bank (SMA) is "
        "off in all its configs. Here the first of the frames that are committed again also see "
        "those before them.",
    ),
    "longlive-rag": RolloutPreset(
        "LongLive-RAG",
        MemoryConfig("alike", window_chunks=1, memory_frames=7, sink_frames=1),
        "arXiv 2606.02553",
        "The first frame as a sink, the 6 older frames that are most like the newest one, and a "
        "window of 3. It is added to other models and changes no weights.",
        "It is not in the paper's Table 1. It compares latents by an autoencoder trained for that, "
        "once for all layers; here each layer compares its own keys. Its window is 2 frames, not "
        "3. Its frames of memory all have the sink's position. It skips the 5 frames that left a "
        "cache of 12 last, which would leave few in a film of 30 latent frames. Its code has one "
        "prompt per film; here history keeps the prompt it was made under.",
    ),
}
