"""Token ids of awkward prompts: ours against WanPipeline's tokenizer and SentencePiece.

UMT5's vocabulary is too large to ship, so a small one of its kind is trained here: SentencePiece's
unigram model, nmt_nfkc, pad 0, eos 1, unknown 2. transformers makes its tokenizer.json, which we
read.
"""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")

import sentencepiece
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import T5Tokenizer

from causalcine_jax.models.text.tokenizer import Tokenizer, clean

LENGTH = 96
SEEN = [
    "A red fox runs along the harbour at dusk, 35mm film, close-up.",
    'Two owls; one sleeps & one doesn\'t: "who?"',
    "狐狸在港口奔跑，夕阳西下。",
    "An 1870s café (naïve, déjà vu) — 50% off!",
    "Der Fuchs läuft über die Brücke.",
    "夕暮れの港を狐が走る",
    "Лиса бежит вдоль гавани",
]
PROMPTS = {
    "plain": "A red fox runs along the harbour.",
    "empty": "",
    "only spaces": " \t\n ",
    "whitespace": "  a\tfox \n\n runs\u00a0along\u2003the\u3000harbour \u200b. ",
    "entities": "fish &amp; chips &lt;b&gt; &#233; &quot;who?&quot; &nbsp;x",
    "entities twice": "fish &amp;amp; chips &amp;lt;3",
    "emoji": "a fox 🦊 and a family 👩‍👩‍👧‍👦, thumbs up 👍🏽, flag 🇳🇱",
    "chinese": "一只红色的狐狸在港口奔跑，背景是夕阳。",
    "full width": "ＦＯＸ １２３！？",
    "mojibake": "cafÃ© schÃ¶n â€œquotedâ€\x9d",
    "curly quotes": "“who?” it’s … ‘one’",
    "accents": "cafe\u0301 de\u0301ja\u0300 vu, ﬁlm Å ½ №",
    "right to left": "ثعلب يركض على طول الميناء",
    "unseen": "ᚠᚢᚦ ꙮ \U0001f9ff",
    "controls": "a\x00fox\x07runs\ufeff",
    "its own marks": "a ▁fox <unk> runs <0x41>",
    "long words": "fox" * 20,
    "numbers": "1920x1080, 23.976 fps, f/1.8, -5°C",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """SentencePiece's model, transformers' tokenizer of it, and ours from its tokenizer.json."""
    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SEEN * 4),
        model_prefix=str(folder / "spiece"),
        vocab_size=420,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    theirs = T5Tokenizer.from_pretrained(folder)
    theirs.save_pretrained(folder / "saved")
    return (
        sentencepiece.SentencePieceProcessor(str(folder / "spiece.model")),
        theirs,
        Tokenizer.load(folder / "saved"),
    )


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_cleaning_is_the_pipelines(prompt):
    assert clean(prompt) == prompt_clean(prompt)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_ids_and_masks(made, prompt):
    pieces, theirs, ours = made
    ids, mask = ours([prompt], LENGTH)
    want = theirs(
        prompt_clean(prompt),
        padding="max_length",
        max_length=LENGTH,
        return_attention_mask=True,
        return_tensors="np",
    )
    assert np.array_equal(ids, want.input_ids) and np.array_equal(mask, want.attention_mask)
    # transformers parses special tokens written as text; SentencePiece does not.
    if prompt != PROMPTS["its own marks"]:
        assert ids[0, : mask.sum()].tolist() == [*pieces.encode(prompt_clean(prompt)), 1]
