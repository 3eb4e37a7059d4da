"""CLIP's tokenizer, from OpenAI's list of merges or from a tokenizer.json.

    caption -> cleaned, lower case -> words -> byte pairs -> start, ids, end, cut at the length

Source: openai/CLIP clip/simple_tokenizer.py, which ViCLIP uses too. A text that is too long keeps
its first tokens, and the end token takes the last place.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import models, pre_tokenizers

from causalcine_jax.errors import DataError
from causalcine_jax.models.text.tokenizer import clean
from causalcine_jax.scorers.sources import SOURCES, refuse_absent

START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = 49_408
MERGES = VOCABULARY - 2 * 256 - 2
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MOST_BYTES = 16 << 20  # of the list of merges, unpacked


class ClipTokenizer:
    """Captions to the ids that CLIP's and ViCLIP's text encoders expect."""

    def __init__(self, backend: tokenizers.Tokenizer):
        start, end = backend.token_to_id(START), backend.token_to_id(END)
        if start is None or end != backend.get_vocab_size() - 1:
            raise DataError(f"this tokenizer is not CLIP's: it lacks {START} or ends with no {END}")
        backend.no_truncation()
        backend.no_padding()
        self._backend, self._start, self._end = backend, start, end

    @classmethod
    def load(cls, path: str | Path) -> "ClipTokenizer":
        """Reads bpe_simple_vocab_16e6.txt.gz, or a tokenizer.json (the file or its folder).

        Raises:
          DataError: it is missing, damaged, or another tokenizer.
        """
        path = refuse_absent(path, SOURCES["tokenizer"])
        path = path / "tokenizer.json" if path.is_dir() else path
        if path.suffix != ".json":
            return cls(byte_pairs(_merges(path)))
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except DataError:
            raise
        except Exception as error:  # the library raises plain Exception for every fault of a file
            raise DataError(
                f"{path} is not a tokenizer of the `tokenizers` library ({error}); copy it again"
            ) from error

    def encode(self, caption: str, length: int) -> tuple[Int[np.ndarray, " t"], int]:
        """(ids padded with 0 to `length`, number of the caption's tokens that were cut off)."""
        ids = self._backend.encode(clean(caption).lower(), add_special_tokens=False).ids
        lost = max(0, len(ids) + 2 - length)
        ids = [self._start, *ids[: length - 2], self._end]
        return np.array([*ids, *[0] * (length - len(ids))], np.int32), lost


def byte_pairs(merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The tokenizer of a list of merges: 256 bytes, the same as ends of words, then the merges."""
    letters = [*_BYTES, *(letter + "</w>" for letter in _BYTES)]
    words = [*letters, *(first + second for first, second in merges), START, END]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={word: number for number, word in enumerate(words)},
            merges=merges,
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # The words themselves are kept, and the spaces between them dropped.
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return backend


def _byte_letters() -> list[str]:
    """The letter that stands for each byte, in the order of CLIP's vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + number) for number in range(len(others)))]


_BYTES = _byte_letters()


def _merges(path: Path) -> list[tuple[str, str]]:
    try:
        with gzip.open(path) as file:
            lines = file.read(_MOST_BYTES).decode("utf-8").split("\n")
        pairs = [line.split() for line in lines[1 : MERGES + 1]]
        return [(first, second) for first, second in pairs]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"{path} is not CLIP's list of merges ({error}). "
            f"It should be {SOURCES['tokenizer'].describe()}"
        ) from error
