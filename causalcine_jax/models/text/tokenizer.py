"""Captions to token ids: cleaned as in Wan2.1, ended by one end-of-sequence token, padded with 0.

Any tokenizer.json of the `tokenizers` library works; UMT5's own is a unigram model of 256,384
pieces. The small model has a word tokenizer, made from its world's vocabulary. It has one id per
word, so unknown words can be named.
"""

import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.utils.atomic_file import write_text

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
FILE_NAME = "tokenizer.json"
FOLDERS = (
    "text_encoder",
    "tokenizer",
    "google/umt5-xxl",
)  # in our model folder, in Diffusers' and in Wan2.1's own


def clean(text: str) -> str:
    """Fixes unicode, decodes HTML entities, collapses whitespace.

    Entities are decoded twice, because they are often escaped twice.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


class Tokenizer:
    """A `tokenizers.Tokenizer` with the rules of Wan2.1's prompts around it."""

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        eos = backend.token_to_id(EOS)
        self._unknown = backend.token_to_id(UNKNOWN)
        if eos is None or backend.token_to_id(PAD) != 0:
            raise DataError(
                f"this tokenizer cannot serve a UMT5 encoder: it needs {EOS!r}, and {PAD!r} as id 0"
            )
        self._eos = eos

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Reads tokenizer.json from `path`: the file, its folder, or a model folder.

        The model folder may have our layout, Diffusers' or Wan2.1's.
        """
        file = tokenizer_file(path)
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception for every fault of a file
            raise DataError(
                f"{file} is not a tokenizer of the `tokenizers` library ({error}); copy it again"
            ) from error
        return cls(backend)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json into `folder` (made if missing)."""
        write_text(Path(folder) / FILE_NAME, self._backend.to_str(pretty=True))

    @property
    def size(self) -> int:
        """The number of ids; a text encoder's vocab_size must be at least this."""
        return self._backend.get_vocab_size()

    def count(self, text: str) -> int:
        """The number of tokens of `text`, including its end-of-sequence token."""
        return len(self._encode(text))

    def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and mask of each text.

        Args:
          texts: B captions; "" is the null prompt, a lone end-of-sequence token.
          length: tokens per row, the model's text_len.

        Returns:
          ids int32 [B, length], padded with 0; mask int32 [B, length], 1 where there is a token.

        Raises:
          UsageError: some captions have more than `length` tokens; names each with its count.
        """
        rows = [self._encode(text) for text in texts]
        faults = [
            f"{len(row)} tokens in {_shortened(text)}"
            for text, row in zip(texts, rows, strict=True)
            if len(row) > length
        ]
        if faults:
            raise UsageError(
                f"caption too long, the model reads at most {length} tokens "
                f"(one of them ends the text): {'; '.join(faults)}"
            )
        ids = np.zeros((len(rows), length), np.int32)
        mask = np.zeros((len(rows), length), np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return ids, mask

    def unknown_words(self, text: str) -> list[str]:
        """The words of `text` that have no id, as written, each once."""
        text = clean(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        unknown = (
            text[a:b]
            for i, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)
            if i == self._unknown
        )
        return list(dict.fromkeys(unknown))

    def known_words(self) -> list[str]:
        """Everything that has an id, sorted, special tokens left out."""
        return sorted(set(self._backend.get_vocab()) - {PAD, EOS, UNKNOWN})

    def _encode(self, text: str) -> list[int]:
        # Add the end of sequence here, independent of the file's post-processor.
        return [*self._backend.encode(clean(text), add_special_tokens=False).ids, self._eos]


def tokenizer_file(path: str | os.PathLike) -> Path:
    """The tokenizer.json that `Tokenizer.load(path)` reads.

    Raises:
      DataError: there is none.
    """
    path = Path(path)
    places = (
        [path]
        if path.suffix == ".json"
        else [path / FILE_NAME, *(path / folder / FILE_NAME for folder in FOLDERS)]
    )
    if path.name == "text_encoder":
        places.append(path.parent / "tokenizer" / FILE_NAME)
    file = next((p for p in places if p.is_file()), None)
    if file is None:
        raise DataError(
            f"no tokenizer at {path}: looked for {FILE_NAME} there and in {', '.join(FOLDERS)}; "
            "google/umt5-xxl has the one of Wan2.1 "
            "(a spiece.model alone is not read)"
        )
    return file


def word_tokenizer(vocabulary: Iterable[str], vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer with one id per lower-case word and punctuation mark of `vocabulary`.

    Ids are in alphabetical order after pad=0, eos=1, unknown=2.

    Raises:
      UsageError: there are more ids than `vocab_size`, the rows of the text encoder's embedding.
    """
    normalizer = normalizers.Lowercase()
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    words = {
        piece
        for entry in vocabulary
        for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(clean(entry)))
    }
    ids = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *sorted(words)])}
    if vocab_size is not None and len(ids) > vocab_size:
        raise UsageError(
            f"the vocabulary has {len(ids)} tokens, the text encoder holds {vocab_size}: "
            "raise text_encoder.vocab_size"
        )
    backend = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    # For other readers of the file; `Tokenizer` itself adds the end of sequence.
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, ids[EOS])]
    )
    backend.add_special_tokens([PAD, EOS, UNKNOWN])
    return Tokenizer(backend)


def _shortened(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[: length - 3] + "...")
