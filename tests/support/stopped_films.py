"""Films that stop in the middle."""

from causalcine_jax.film_folder import filming


def stop_after(monkeypatch, chunks: int, error: BaseException) -> None:
    """The writer of frames raises `error` after so many chunks."""
    append, seen = filming.FilmWriter.append, []

    def counted(film, frames):
        if len(seen) == chunks:
            raise error
        seen.append(frames)
        append(film, frames)

    monkeypatch.setattr(filming.FilmWriter, "append", counted)
