"""How well a VAE reconstructs true films: everywhere, after cuts and at characters.

psnr        dB over all frames (peak 255)
psnr_cut    over the first frame after every cut, where the VAE's cache is of another shot
psnr_rest   over all other frames
sharpness   edge energy in characters' boxes, round trip over truth: 1 is as sharp as the film
edges       the same over whole frames
"""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from causalcine_jax.evaluation.storyworld.true_films import true_cuts, true_film
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.storyworld import WorldStory, box_masks, ground_truth

Pixels = UInt8[np.ndarray, "t h w 3"]


def round_trip(vae: VAE, film: Pixels) -> Pixels:
    """Encodes and decodes a whole film at once."""
    video = jnp.asarray(film[None], jnp.float32) / 127.5 - 1
    return np.asarray(jnp.round((vae.decode(vae.encode(video)) + 1) * 127.5).astype(jnp.uint8))[0]


def edge_energy(film: Pixels) -> np.ndarray:
    """Sums the absolute differences to the pixels below and to the right, [T,H,W].

    The last row and column lack a neighbour, which counts as no difference.
    """
    pixels = film.astype(np.float32)
    down = np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:])).sum(-1)
    right = np.abs(np.diff(pixels, axis=2, append=pixels[:, :, -1:])).sum(-1)
    return down + right


def reconstruction(vae: VAE, stories: Iterable[WorldStory]) -> dict[str, float]:
    """Returns the numbers above over the true films of `stories`; `cuts` is their number."""
    errors, cut_errors = [], []
    energy = np.zeros((2, 2))  # whole frames and characters; round trip and truth
    for story in stories:
        film = true_film(story)
        back = round_trip(vae, film)
        error = np.square(back.astype(np.float32) - film).mean(axis=(1, 2, 3))
        cuts = true_cuts(story)
        cut_errors.extend(error[cuts])
        errors.extend(np.delete(error, cuts))
        masks = box_masks(ground_truth(story).figure_box, *film.shape[1:3]).any(axis=1)
        for column, pixels in enumerate((back, film)):
            edges = edge_energy(pixels)
            energy[:, column] += edges.sum(), edges[masks].sum()
    psnr = lambda values: (
        round(float(10 * np.log10(255**2 / np.mean(values))), 3) if len(values) else None
    )
    edges, sharpness = (round(float(ours / truth), 4) for ours, truth in energy)
    return {
        "psnr": psnr([*errors, *cut_errors]),
        "psnr_cut": psnr(cut_errors),
        "psnr_rest": psnr(errors),
        "sharpness": sharpness,
        "edges": edges,
        "cuts": len(cut_errors),
    }
