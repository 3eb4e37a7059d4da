"""StoryWorld's film sizes and the tables of everything that a story can draw.

The tables' order is public: a (seed, index) pair is reproducible only while it stays.
"""

import dataclasses
from dataclasses import dataclass

from causalcine_jax.clock import CHUNK_FRAMES, TEMPORAL_STRIDE
from causalcine_jax.errors import raise_faults

RGB = tuple[float, float, float]  # 0..255

# Fur colours differ in hue or lightness, also under the light of TIMES and after a small VAE.
COLOURS: dict[str, RGB] = {
    "red": (214, 44, 44),
    "yellow": (250, 208, 40),
    "green": (60, 168, 72),
    "blue": (44, 104, 226),
    "purple": (134, 62, 176),
    "pink": (250, 148, 192),
    "white": (244, 244, 240),
    "black": (58, 56, 66),
}

# Each accessory has its own shape (accessories.py) and two colours, the same in every film.
ACCESSORIES: dict[str, tuple[RGB, RGB]] = {
    "scarf": ((255, 128, 16), (255, 240, 214)),
    "hat": ((44, 36, 84), (240, 40, 140)),
    "crown": ((255, 200, 20), (220, 30, 60)),
    "bow": ((16, 190, 190), (240, 255, 250)),
}

SPECIES = ("fox", "rabbit", "bear", "owl", "frog", "elephant")
NAMES = (
    "Mia", "Otto", "Luna", "Felix", "Nora", "Hugo", "Ida", "Pip",
    "Rosa", "Theo", "Wanda", "Bruno", "Cleo", "Gus", "Zelda", "Milo",
)  # fmt: skip
PLACES = ("meadow", "beach", "forest", "mountains", "desert", "city")
TIMES = ("day", "sunset", "night")
ACTIONS = ("walk", "jump", "wave", "dance", "sleep", "look")
SIZES = ("wide", "medium", "close-up")
CAMERAS = ("static", "pan", "push in", "pull out")

MAX_ON_SCREEN = 2  # characters that a shot shows
MAX_CAST = 3  # characters of a story
EMPTY = 0.05  # fraction of shots without a character


@dataclass(frozen=True)
class WorldConfig:
    """Sizes of one world's films, and how they divide into shots.

    late_chunk  a character that first appears in this chunk or later is hidden from a
                first-frame sink
    acts        plans of shots per film, of equal length; the bounds on shots hold for one act
    pairs       probability that a shot shows two characters. EMPTY of the shots show none
                and the rest show one. Plans are redrawn until they hold a return, so the
                fraction of pairs in films differs by a few per cent.
    """

    height: int
    width: int
    latent_frames: int
    min_shots: int
    max_shots: int
    min_shot_chunks: int
    max_shot_chunks: int
    late_chunk: int
    window_chunks: int = 3
    acts: int = 1
    pairs: float = 0.12

    def __post_init__(self):
        faults = []
        if self.height * 5 != self.width * 3 or self.height % 16 or self.width % 16:
            faults.append(
                f"width x height must be 5:3 and multiples of 16, not {self.width}x{self.height}"
            )
        if self.latent_frames % CHUNK_FRAMES:
            faults.append(
                f"latent_frames must be a multiple of {CHUNK_FRAMES}, not {self.latent_frames}"
            )
        if self.acts < 1 or self.chunks % self.acts:
            raise_faults(
                "StoryWorld",
                [*faults, f"a film of {self.chunks} chunks does not divide into {self.acts} acts"],
            )
        if not 0 <= self.pairs <= 1 - EMPTY:
            faults.append(f"pairs must be in [0, {1 - EMPTY}], not {self.pairs}")
        if not 1 <= self.min_shots <= self.max_shots:
            faults.append(
                f"min_shots {self.min_shots} and max_shots {self.max_shots} "
                "must be in order and positive"
            )
        if (
            not self.max_shots * self.min_shot_chunks
            <= self.act_chunks
            <= self.min_shots * self.max_shot_chunks
        ):
            faults.append(
                f"{self.min_shots} to {self.max_shots} shots of {self.min_shot_chunks} to "
                f"{self.max_shot_chunks} chunks cannot always fill {self.act_chunks}"
            )
        raise_faults("StoryWorld", faults)

    @classmethod
    def base(cls) -> "WorldConfig":
        """Films of 80x48, 117 video frames (7.3 s): small enough to train on a laptop."""
        return cls(
            48, 80, 30, min_shots=3, max_shots=5, min_shot_chunks=1, max_shot_chunks=4, late_chunk=2
        )

    @classmethod
    def montage(cls) -> "WorldConfig":
        """Films as in base(), in shots of one or two chunks.

        Most chunks start a shot, so most of a film teaches recall. There are many pairs,
        because which of two characters wears what is the hardest to learn.
        """
        return cls(
            48,
            80,
            30,
            min_shots=8,
            max_shots=10,
            min_shot_chunks=1,
            max_shot_chunks=2,
            late_chunk=2,
            pairs=0.45,
        )

    @classmethod
    def montage_long(cls) -> "WorldConfig":
        """Films as in montage(), of 60 latent frames.

        A character is in few of many frames, so memory has to choose.
        """
        return cls(
            48,
            80,
            60,
            min_shots=14,
            max_shots=20,
            min_shot_chunks=1,
            max_shot_chunks=2,
            late_chunk=2,
            pairs=0.45,
        )

    @classmethod
    def storyworld(cls) -> "WorldConfig":
        """Films of 160x96, 237 video frames (14.8 s), 5 shots."""
        return cls(
            96,
            160,
            60,
            min_shots=5,
            max_shots=5,
            min_shot_chunks=2,
            max_shot_chunks=7,
            late_chunk=3,
        )

    @classmethod
    def single(cls) -> "WorldConfig":
        """Films as in base(), in one shot: for a model that never sees a cut."""
        return cls.base().in_one_shot()

    @classmethod
    def storyworld_single(cls) -> "WorldConfig":
        """Films as in storyworld(), in one shot."""
        return cls.storyworld().in_one_shot()

    def in_one_shot(self) -> "WorldConfig":
        """Returns the same films without a cut inside an act.

        No character returns, and some of the cast never appear.
        """
        whole = self.act_chunks
        return dataclasses.replace(
            self, min_shots=1, max_shots=1, min_shot_chunks=whole, max_shot_chunks=whole
        )

    def longer(self, times: int) -> "WorldConfig":
        """Films `times` as long: that many plans of this world in a row, with one cast."""
        return dataclasses.replace(
            self, latent_frames=times * self.latent_frames, acts=times * self.acts
        )

    @property
    def chunks(self) -> int:
        return self.latent_frames // CHUNK_FRAMES

    @property
    def act_chunks(self) -> int:
        return self.chunks // self.acts

    @property
    def frames(self) -> int:
        """Number of video frames, T = 4F - 3, as a causal video VAE encodes them."""
        return TEMPORAL_STRIDE * (self.latent_frames - 1) + 1


WORLDS = {
    "base": WorldConfig.base,
    "base-long": lambda: WorldConfig.base().longer(2),
    "montage": WorldConfig.montage,
    "montage-long": WorldConfig.montage_long,
    "single": WorldConfig.single,
    "storyworld": WorldConfig.storyworld,
    "storyworld-single": WorldConfig.storyworld_single,
}
