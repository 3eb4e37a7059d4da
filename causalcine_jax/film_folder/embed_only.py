"""Embeds a story's prompts into a file, so that films need no text encoder: `film --embed-only`."""

from pathlib import Path

from causalcine_jax.config import DTYPES
from causalcine_jax.convert import load_text_encoder, load_tokenizer
from causalcine_jax.convert.formats import open_part
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.embeddings import embed_prompts, encoder_hash
from causalcine_jax.film.model_folder import (
    PARTS,
    check_dtype,
    check_parts,
    model_defaults,
    transformer_sizes,
)
from causalcine_jax.film.prompts import check_prompts
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.filming import say
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.models.float8 import outside_blocks
from causalcine_jax.story import prompt_of
from causalcine_jax.utils.output import one_file_writer


def save_story_embeddings(
    recipe: Recipe,
    file: Path,
    *,
    model: Path | None = None,
    choices: Choices = Choices(),
    progress: bool = True,
) -> None:
    """Adds the embeddings of the story's prompts to `file`; loads only the text encoder.

    Raises as `generate` does, and as `one_file_writer`.
    """
    story = recipe.story
    prompts = [(f"shot '{shot.id}'", shot.prompt) for shot in story.resolve().shots]
    if caption := choices.start_caption or (recipe.record.start or {}).get("caption"):
        prompts.append(("start", prompt_of(story.global_caption, caption)))
    if negative := story.negative if choices.negative is None else choices.negative:
        prompts.append(("negative", negative))
    folder = chosen_model(model, base=choices.base, recorded=recipe.record)
    with one_file_writer(file):
        new = _save(file, folder, prompts, choices.dtype or recipe.record.dtype)
    if progress:
        say(f"{file}: {len(new)} new prompts")


def _save(
    path: Path, folder: Path, prompts: list[tuple[str, str]], dtype: str | None = None
) -> list[str]:
    """Embeds prompts and adds them to the file at `path`; returns the new prompts.

    Loads only the text encoder. The model's negative prompt is always embedded too. Raises as
    `load_model` does, and `UsageError` for prompts that the model cannot read.

    prompts  (where it occurs, its text)
    """
    check_parts(folder, PARTS)
    defaults = model_defaults(folder)
    dtype = dtype or defaults.get("dtype", DTYPES[0])
    check_dtype(dtype)
    with open_part(folder, "transformer") as tensors:
        text_len = transformer_sizes(tensors).text_len
    tokenizer = load_tokenizer(folder)
    prompts = [*prompts, ("negative", defaults.get("negative", ""))]
    check_prompts(prompts, tokenizer, text_len)
    encoder = load_text_encoder(folder, outside_blocks(dtype))
    return embed_prompts(
        path, [text for _, text in prompts], encoder, tokenizer, text_len, encoder_hash(folder)
    )
