"""A film's clock: how its video frames, latent frames and chunks relate.

The first latent frame is one video frame, every later one is four, as Wan2.1's VAE codes them.
"""

import math

FPS = 16  # video frames per second of Wan2.1's films; a story may ask for another rate
TEMPORAL_STRIDE = 4  # video frames per latent frame, after the first
CHUNK_FRAMES = 3  # latent frames of a chunk, unless a model was trained with another number


def first_frame_of_chunk(chunk: int, chunk_frames: int = CHUNK_FRAMES) -> int:
    """The video frame where a chunk starts: 0, 9, 21, 33, ... for chunks of 3 latent frames."""
    return max(0, TEMPORAL_STRIDE * (chunk_frames * chunk - 1) + 1)


def chunk_at(frame: float, chunk_frames: int = CHUNK_FRAMES) -> int:
    """The chunk boundary nearest to a video frame (a tie goes to the earlier one)."""
    per_chunk = TEMPORAL_STRIDE * chunk_frames
    after = max(0, math.floor((frame + TEMPORAL_STRIDE - 1) / per_chunk))
    return min(
        (after, after + 1), key=lambda chunk: abs(first_frame_of_chunk(chunk, chunk_frames) - frame)
    )
