"""How well films come back from a VAE: everywhere, after cuts and at their subjects.

psnr        dB over all frames (peak 255)
psnr_cut    over the first frame after every cut, where the VAE's cache is of another shot
psnr_rest   over all other frames
sharpness   edge energy at the subjects, round trip over truth: 1 is as sharp as the film
edges       the same over whole frames
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from causalcine_jax.evaluation.storyworld.sharpness import edge_energy
from causalcine_jax.evaluation.storyworld.true_films import true_cuts, true_film
from causalcine_jax.models.vae.video import to_model_range, to_uint8
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.storyworld import WorldStory, box_masks, scene_parameters

Pixels = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True)
class RoundTrip:
    """A film and what came back of it.

    cuts      the first frames after cuts
    subjects  the pixels that show whom the film is about
    """

    film: Pixels
    back: Pixels
    cuts: list[int]
    subjects: Bool[np.ndarray, "t h w"]


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


def reconstruction(films: Iterable[RoundTrip]) -> dict[str, float | None]:
    """Returns the numbers above over `films`, None over no frame; `cuts` is their number."""
    errors: list[float] = []
    cut_errors: list[float] = []
    energy = np.zeros((2, 2))  # whole frames and subjects; round trip and truth
    for each in films:
        error = np.square(each.back.astype(np.float32) - each.film).mean(axis=(1, 2, 3))
        cut_errors.extend(error[each.cuts])
        errors.extend(np.delete(error, each.cuts))
        for column, pixels in enumerate((each.back, each.film)):
            of_pixels = edge_energy(pixels)
            energy[:, column] += of_pixels.sum(), of_pixels[each.subjects].sum()
    psnr = lambda values: (  # None also where nothing was lost
        round(float(10 * np.log10(255**2 / np.mean(values))), 3) if np.any(values) else None
    )
    edges, sharpness = (round(float(ours / truth), 4) if truth else None for ours, truth in energy)
    return {
        "psnr": psnr([*errors, *cut_errors]),
        "psnr_cut": psnr(cut_errors),
        "psnr_rest": psnr(errors),
        "sharpness": sharpness,
        "edges": edges,
        "cuts": len(cut_errors),
    }
