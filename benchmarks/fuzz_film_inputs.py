"""Sound adapters, prompt embeddings and unfinished films, and mutations of them.

Their readers take the model from the folder `model` beside the input.
"""

import json
from pathlib import Path
from random import Random

import numpy as np
from safetensors.numpy import save_file

from benchmarks.mutate_files import Kind, change_bytes, change_inside, change_safetensors

PROMPTS = ("Mia waves.", "Otto sleeps.")
PEFT = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "alpha_pattern": {"ffn.0": 2},
    "rank_pattern": {"ffn.0": 4},
    "use_rslora": False,
    "init_lora_weights": True,
    "target_modules": ["q", "ffn.0"],
}
KOHYA = {"ss_network_dim": "4", "ss_network_alpha": "8"}


def film_kinds(folder: Path, model: Path, store: Path) -> dict[str, Kind]:
    """The kinds. Their sound files are written below `folder`."""
    adapters, embeddings = _adapters(folder), _prompt_embeddings(folder / "e.safetensors", model)
    embedded, film = _embedded_store(folder / "embedded", model, store), _film(folder / "film")
    kept = ("journal.json", ".npz", "start.npy")
    return {
        "adapter": Kind(adapters, lambda to, rng: _adapter(to, rng, rng.choice(adapters))),
        "prompt embeddings": Kind(
            [embeddings], lambda to, rng: change_safetensors(to, rng, embeddings)
        ),
        "store embeddings": Kind(
            [embedded], lambda to, rng: change_inside(to, rng, embedded, ("embeddings/",))
        ),
        "journal": Kind([film], lambda to, rng: change_inside(to, rng, film, kept)),
        "asked.json": Kind([film], lambda to, rng: change_inside(to, rng, film, ("asked.json",))),
    }


def _adapter(to: Path, rng: Random, source: Path) -> str:
    if source.is_dir():
        return change_inside(to, rng, source, ("adapter_",))
    if rng.random() < 0.2:
        return change_bytes(to, rng, source)
    return f"{source.name}, {change_safetensors(to, rng, source)}"


def _adapters(folder: Path) -> list[Path]:
    """Peft's folder, kohya's file with an alpha per module, and Diffusers' with packed settings."""
    rng, rank = np.random.default_rng(0), 4
    sizes = {"blocks.0.self_attn.q": (24, 24), "blocks.1.ffn.0": (32, 24)}
    pairs = {
        module: (
            rng.standard_normal((rank, columns)).astype(np.float32),
            rng.standard_normal((rows, rank)).astype(np.float32),
        )
        for module, (rows, columns) in sizes.items()
    }
    peft, kohya, packed = folder / "peft", folder / "kohya.safetensors", folder / "d.safetensors"
    peft.mkdir()
    halves = {f"{name}.lora_A.weight": down for name, (down, _) in pairs.items()}
    halves |= {f"{name}.lora_B.weight": up for name, (_, up) in pairs.items()}
    of_peft = {f"base_model.model.{key}": half for key, half in halves.items()}
    save_file(of_peft, peft / "adapter_model.safetensors")
    (peft / "adapter_config.json").write_text(json.dumps(PEFT))
    flat: dict[str, np.ndarray] = {}
    for name, (down, up) in pairs.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        flat |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        flat[f"{key}.alpha"] = np.array(8, np.float32)
    flat["lora_unet_blocks_0_norm3.diff"] = np.ones(24, np.float32)
    save_file(flat, kohya, KOHYA)
    settings = {f"transformer.{name}": value for name, value in PEFT.items()}
    of_diffusers = {f"transformer.{key}": half for key, half in halves.items()}
    save_file(of_diffusers, packed, {"lora_adapter_metadata": json.dumps(settings)})
    return [peft, kohya, packed]


def _prompt_embeddings(file: Path, model: Path) -> Path:
    from causalcine_jax.film_folder.embed_only import save_story_embeddings
    from causalcine_jax.film_folder.record import Recipe
    from causalcine_jax.story import Shot, Story

    story = Story(tuple(Shot(prompt, chunks=1) for prompt in PROMPTS))
    save_story_embeddings(Recipe(story), file, model=model, progress=False)
    return file


def _embedded_store(folder: Path, model: Path, store: Path) -> Path:
    import shutil

    from causalcine_jax.data.embed_command import embed_stores

    shutil.copytree(store, folder)
    embed_stores(model, [folder], progress=False)
    return folder


def _film(folder: Path) -> Path:
    """An unfinished film of two shots, of which a start and the next chunk are kept."""
    from causalcine_jax.config import MemoryConfig, PoolConfig
    from causalcine_jax.diffusion.solvers import SamplerConfig
    from causalcine_jax.film.journal import Journal
    from causalcine_jax.film.kept_film import KeptChunk
    from causalcine_jax.film.model_folder import latent_size, load_model
    from causalcine_jax.film.settings import FilmSettings
    from causalcine_jax.film_folder.choices import Choices
    from causalcine_jax.film_folder.record import Recipe
    from causalcine_jax.film_folder.unfinished import (
        Begun,
        FilmRequest,
        journal_folder,
        save_request,
    )
    from causalcine_jax.story import Shot, Story

    rng, model = np.random.default_rng(0), load_model(folder.parent / "model")
    width, height = 32, 16  # tiny_models.SIZE
    shots = tuple(Shot(prompt, chunks=2) for prompt in PROMPTS)
    told = Story(shots, "A story.")
    memory, sampler = MemoryConfig("camr", 1, 2), SamplerConfig(steps=1)
    choices = Choices(
        steps=1,
        step_list=None,
        pool_frames=9,
        window_chunks=1,
        memory_frames=2,
        size=(width, height),
    )
    shape = (1, 3, *latent_size(model, height, width), 16)
    latents = [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]
    chunks = tuple(KeptChunk(each, np.full((2, 2), -1, np.int32)) for each in latents)
    settings = FilmSettings(sampler, memory, PoolConfig(9), height, width)
    journal = Journal.new(journal_folder(folder), model, latents[0], True)
    journal.write(told, settings, chunks)
    journal.close()
    start = {"file": "a.png", "caption": PROMPTS[0], "sha256": "0" * 64, "chunks": 1}
    save_request(folder, FilmRequest(Recipe(told), model.folder, choices, Begun(start)))
    return folder
