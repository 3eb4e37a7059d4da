"""Prompt embeddings on disk, so that a film is made without the text encoder in memory.

The text encoder of Wan2.1 has 5.7 billion parameters.

    story -> prompts -> tokenizer, text encoder -> embed_prompts -> FILE   (only the encoder loaded)
    FILE -> PromptEmbeddings -> Model.embed -> cross-attention             (no encoder loaded)

FILE is safetensors with one tensor [tokens, text_dim] per prompt, in the encoder's dtype. Its
header holds the prompts and the hash of the encoder's weights. A prompt's key is its text as the
tokenizer cleans it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Array, Float, Int
from safetensors import SafetensorError, safe_open

from causalcine_jax.convert import weights_hash
from causalcine_jax.convert.find import find_part
from causalcine_jax.errors import DataError, UsageError, one_line, raise_faults
from causalcine_jax.models.text.tokenizer import clean
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.utils.atomic_file import atomic_file, file_hash

SCHEMA = "causalcine/embeddings@1"
# Of what a header may hold: types of numbers that numpy lacks, no JSON, other values.
_FAULTS = (ValueError, KeyError, TypeError, RecursionError)


@jax.jit
def encode(
    text_encoder: UMT5Encoder, ids: Int[Array, "b t"], mask: Int[Array, "b t"]
) -> Float[Array, "b t c"]:
    """Embeddings of padded prompts, zero beyond each prompt's tokens."""
    return text_encoder(ids, mask)


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embeddings of some prompts by one text encoder, without padding.

    path  the file that they were read from
    """

    encoder_sha256: str
    rows: dict[str, Float[np.ndarray, "t c"]]
    path: Path | None = None

    @classmethod
    def load(cls, path: str | Path) -> "PromptEmbeddings":
        """Reads what `save` wrote. `DataError` if the file is missing, damaged or no such file."""
        path = Path(path)
        if not path.is_file():
            raise DataError(
                f"no prompt embeddings at {path}: "
                f"make them with causalcine film --embed-only --embeddings {path}"
            )
        try:
            with safe_open(str(path), framework="np") as opened:
                header = opened.metadata() or {}
                if header.get("schema") != SCHEMA:
                    raise DataError(
                        f"{path} holds no prompt embeddings (its header lacks the schema {SCHEMA})"
                    )
                prompts = json.loads(header["prompts"])
                if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
                    raise ValueError("its prompts are no list of texts")
                rows = {prompt: opened.get_tensor(str(i)) for i, prompt in enumerate(prompts)}
                for row in rows.values():
                    if row.ndim != 2 or not jnp.issubdtype(row.dtype, jnp.floating):
                        raise ValueError("an embedding is no table of tokens and numbers")
                    if not np.isfinite(row.astype(np.float32)).all():
                        raise ValueError("an embedding holds NaN or infinity")
                return cls(header["encoder_sha256"], rows, path)
        except (SafetensorError, OSError, *_FAULTS) as error:
            raise DataError(
                f"{path} is damaged or incomplete ({one_line(error)}): "
                "make it again with --embed-only"
            ) from error

    def save(self, path: str | Path) -> None:
        tensors = {str(i): np.ascontiguousarray(row) for i, row in enumerate(self.rows.values())}
        header = {
            "schema": SCHEMA,
            "encoder_sha256": self.encoder_sha256,
            "prompts": json.dumps(list(self.rows)),
        }
        with atomic_file(path) as partial:
            safetensors.numpy.save_file(tensors, partial, header)

    def check(self, prompts: Iterable[tuple[str, str]], text_len: int, text_dim: int) -> None:
        """`UsageError` naming every prompt that is missing, too long or of another encoder.

        prompts  (where it occurs, its text)
        """
        faults = []
        for where, text in prompts:
            row = self.rows.get(clean(text))
            if row is None:
                faults.append(
                    f"{where} is not in {self.path}: {clean(text)!r}; add it with --embed-only"
                )
            elif len(row) > text_len:
                count = f"{len(row)} tokens, the model reads at most {text_len}"
                faults.append(f"{where}: the prompt has {count}")
            elif row.shape[1] != text_dim:
                faults.append(
                    f"{where}: a token has {row.shape[1]} numbers in {self.path}, and {text_dim} "
                    "for this model: make the file again with --embed-only"
                )
        raise_faults("prompt embeddings", faults)

    def digest(self, prompts: Iterable[str]) -> str:
        """SHA-256 of these prompts' embeddings. It stays when others are added to the file."""
        digest = hashlib.sha256()
        for prompt in prompts:
            row = self.rows[clean(prompt)]
            digest.update(f"{row.shape} {row.dtype}".encode() + np.ascontiguousarray(row).tobytes())
        return digest.hexdigest()

    def padded(self, prompt: str, text_len: int) -> Float[np.ndarray, "1 t c"]:
        row = self.rows[clean(prompt)]
        return np.pad(row, ((0, text_len - len(row)), (0, 0)))[None]


def embed(
    text_encoder: UMT5Encoder, tokenizer, prompt: str, text_len: int
) -> Float[Array, "1 t c"]:
    """One prompt's embedding, computed in a batch of one and padded to text_len.

    So its numbers do not depend on other prompts, and prompts of all lengths share one program.
    """
    return encode(text_encoder, *tokenizer([prompt], text_len))


def encoder_hash(folder: Path) -> str:
    """SHA-256 of the text encoder in `folder`."""
    weights = find_part(folder, "text_encoder").weights
    return weights_hash(weights) if weights.is_dir() else file_hash(weights)


def embed_prompts(
    path: Path,
    prompts: Iterable[str],
    text_encoder: UMT5Encoder,
    tokenizer,
    text_len: int,
    encoder_sha256: str,
) -> list[str]:
    """Adds the prompts' embeddings to the file at `path`; returns the new prompts.

    Raises:
      UsageError: the file holds another encoder's embeddings.
      DataError: it cannot be read or written.
    """
    known = PromptEmbeddings.load(path) if path.exists() else PromptEmbeddings(encoder_sha256, {})
    if known.encoder_sha256 != encoder_sha256:
        raise UsageError(
            f"{path} holds embeddings of another text encoder: "
            "give another --embeddings, or delete it"
        )
    new = [text for text in dict.fromkeys(map(clean, prompts)) if text not in known.rows]
    rows = {
        text: np.asarray(embed(text_encoder, tokenizer, text, text_len)[0, : tokenizer.count(text)])
        for text in new
    }
    PromptEmbeddings(encoder_sha256, {**known.rows, **rows}).save(path)
    return new
