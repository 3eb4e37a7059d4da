"""Runs on prompts that were embedded before, against runs that embed them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from causalcine_jax import convert
from causalcine_jax.training import known_prompts
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import read_records
from causalcine_jax.training.stages import distillation


def without_text_encoder(monkeypatch) -> None:
    """Loading a text encoder for training fails from now on."""

    def refused(*_, **__):
        raise AssertionError("a text encoder is loaded")

    for module in (convert, distillation, known_prompts):
        monkeypatch.setattr(module, "load_text_encoder", refused)


def again_on_embeddings(config: TrainConfig, out: Path, rtol: float = 1e-6):
    """The run of `config` again, with no text encoder in memory; checks that its losses are equal.

    Returns:
      its config and its last state.
    """
    known = replace(config, out=str(out), data=replace(config.data, embeddings=True))
    with pytest.MonkeyPatch.context() as patch:
        without_text_encoder(patch)
        state = train(known)
    check_losses(Path(config.out), out, rtol)
    return known, state


def check_losses(expected: Path, found: Path, rtol: float = 1e-6) -> None:
    """Two runs of at least three records have the same losses."""
    pairs = list(zip(losses(expected), losses(found), strict=True))
    assert len(pairs) >= 3 and all(record for _, record in pairs)
    for a, b in pairs:
        assert a.keys() == b.keys()
        np.testing.assert_allclose([*b.values()], [*a.values()], rtol=rtol)


def losses(out: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in record.items() if "loss" in name or "mse" in name}
        for record in read_records(out / "metrics.jsonl")
    ]
