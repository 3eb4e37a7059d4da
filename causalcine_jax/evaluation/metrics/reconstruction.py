"""How well films come back from a VAE: everywhere, after cuts and at their subjects.

psnr        dB over all frames (peak 255)
psnr_cut    over the first frame after every cut, where the VAE's cache is of another shot
psnr_rest   over all other frames
sharpness   edge energy at the subjects, round trip over truth: 1 is as sharp as the film
edges       the same over whole frames
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8


@dataclass(frozen=True)
class RoundTrip:
    """A film and what came back of it.

    cuts      the first frames after cuts
    subjects  the pixels that show whom the film is about
    """

    film: UInt8[np.ndarray, "t h w 3"]
    back: UInt8[np.ndarray, "t h w 3"]
    cuts: list[int]
    subjects: Bool[np.ndarray, "t h w"]


def edge_energy(film: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h w"]:
    """Sums the absolute differences to the pixels below and to the right.

    The last row and column lack a neighbour, which counts as no difference.
    """
    pixels = film.astype(np.float32)
    down = np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:])).sum(-1)
    right = np.abs(np.diff(pixels, axis=2, append=pixels[:, :, -1:])).sum(-1)
    return down + right


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
