"""A SentencePiece model, read without its library, gives the library's ids."""

import io

import sentencepiece
from tokenizers import Tokenizer

from causalcine_jax.convert.sentencepiece import tokenizer_json

LINES = [
    "A red fox crosses the snow, slowly, and looks back at the camera.",
    "The same fox at night: a lantern swings, the snow is blue.",
    "Ein Fuchs läuft über den Schnee; don't follow him (yet).",
    "红色的狐狸 在雪地里 ﬁne Ⅷ ｆｕｌｌ ½",
]
UNSEEN = ["日本語のテスト ☃", "— “quote” ﬂ", "A  B", ""]


def test_ids_are_those_of_the_library():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 5),
        model_writer=model,
        vocab_size=400,
        model_type="unigram",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ours = Tokenizer.from_str(tokenizer_json(model.getvalue(), "model").decode())
    for line in [" ".join(line.split()) for line in LINES + UNSEEN]:
        assert ours.encode(line, add_special_tokens=False).ids == theirs.encode(line), line
