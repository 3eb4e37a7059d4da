"""True films through a VAE and back, for evaluation/metrics/reconstruction.py."""

from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from causalcine_jax.evaluation.metrics.reconstruction import RoundTrip
from causalcine_jax.evaluation.storyworld.true_films import true_cuts, true_film
from causalcine_jax.models.vae.video import to_model_range, to_uint8
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.storyworld import WorldStory, box_masks, scene_parameters

Pixels = UInt8[np.ndarray, "t h w 3"]


def round_trip(vae: VAE, film: Pixels) -> Pixels:
    """Encodes and decodes a whole film at once."""
    video = to_model_range(jnp.asarray(film[None]))
    return np.asarray(to_uint8(vae.decode(vae.encode(video))))[0]


def round_trips(vae: VAE, stories: Iterable[WorldStory]) -> Iterator[RoundTrip]:
    """Yields the true film of every story with its way back; its subjects are the characters."""
    for story in stories:
        film = true_film(story)
        boxes = scene_parameters(story)["figure"] * story.world.height
        figures = box_masks(boxes, *film.shape[1:3])
        characters = np.any(figures, axis=1)
        yield RoundTrip(film, round_trip(vae, film), true_cuts(story), characters)
