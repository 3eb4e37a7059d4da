"""Reads a SentencePiece unigram model (spiece.model) as a tokenizer of the `tokenizers` library.

ComfyUI packs that file into its text encoders as a tensor of bytes, `spiece_model`. It is a
protocol buffer (google/sentencepiece, sentencepiece_model.proto). Four of its fields are needed and
parsed here, without the protobuf library.
"""

import struct
from collections.abc import Iterator

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from causalcine_jax.errors import DataError
from causalcine_jax.models.text.tokenizer import EOS, PAD, UNKNOWN

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # protocol buffers' wire types
_UNIGRAM = 1
_NORMAL, _UNKNOWN_PIECE, _BYTE = 1, 2, 6  # SentencePiece.Type
_SPACE = "\u2581"


def tokenizer_json(model: bytes, what: str) -> bytes:
    """The tokenizer.json of a spiece.model. `what` starts the message of an error.

    Raises:
      DataError: not a unigram model of SentencePiece, or without the pieces that UMT5 needs.
    """
    try:
        return _backend(model).to_str(pretty=False).encode("utf-8")
    except (
        ValueError,
        IndexError,
        TypeError,
        struct.error,
        UnicodeDecodeError,
        OverflowError,
    ) as error:
        raise DataError(
            f"{what} is no SentencePiece model ({error}); "
            "name the folder or tokenizer.json of google/umt5-xxl"
        ) from error


def _backend(model: bytes) -> Backend:
    pieces: list[tuple[str, float]] = []
    names: set[str] = set()
    charsmap, unknown, by_bytes = b"", None, False
    for number, value in _fields(model):
        if number == 1:
            piece = dict(_fields(_bytes(value)))
            text, kind = (
                _bytes(piece[1]).decode("utf-8") if 1 in piece else "",
                piece.get(3, _NORMAL),
            )
            if kind == _UNKNOWN_PIECE:
                unknown = len(pieces)
            names.add(text)
            by_bytes |= kind == _BYTE
            pieces.append((text, struct.unpack("<f", _bytes(piece[2]))[0] if 2 in piece else 0.0))
        elif number == 2 and dict(_fields(_bytes(value))).get(3, _UNIGRAM) != _UNIGRAM:
            raise ValueError("it is of another kind than unigram")
        elif number == 3:
            charsmap = _bytes(dict(_fields(_bytes(value))).get(2, b""))
    if unknown is None or {PAD, EOS} - names:
        raise ValueError(f"it lacks {PAD}, {EOS} or the unknown piece")
    backend = Backend(models.Unigram(pieces, unk_id=unknown, byte_fallback=by_bytes))
    steps = [normalizers.Precompiled(charsmap)] if charsmap else []
    backend.normalizer = normalizers.Sequence(
        [*steps, normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), _SPACE)]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    backend.add_special_tokens([PAD, EOS, *([UNKNOWN] if UNKNOWN in names else [])])
    return backend


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value as stored) of each field of a message."""
    at = 0
    value: int | bytes
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
        else:
            if kind == _BYTES:
                size, at = _varint(message, at)
            elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
                size = 8 if kind == _EIGHT_BYTES else 4
            else:
                raise ValueError(f"a field is of the unknown wire type {kind}")
            if at + size > len(message):
                raise ValueError("it ends within a field")
            value, at = message[at : at + size], at + size
        yield tag >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("a number in it has no end")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field is a number where text was expected")
    return value
