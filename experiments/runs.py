"""Every model that the tables measure, at two sizes: its config, its films, its other models."""

from experiments.plan import ExperimentScale, FilmStore, Override, TrainingRun

EMBEDDED = "causalcine_jax/weights/storyworld"
STUDENT = "causalcine_jax/weights/storyworld-student"


def _continued(*overrides: Override, config: str, films: tuple[str, ...]) -> TrainingRun:
    return TrainingRun(config, init="base", films=films, overrides=overrides)


def _variants(config: str, films: tuple[str, ...], *recipe: Override) -> dict[str, TrainingRun]:
    """Continues the base's training with another memory, or other positions."""
    changes = {f"memory-{policy}": ("memory.policy", policy) for policy in ("camr", "sink", "none")}
    changes["positions-absolute"] = ("memory.positions", "absolute")
    return {
        name: _continued(*recipe, change, config=config, films=films)
        for name, change in changes.items()
    }


def _students(
    size: str,
    films: tuple[str, ...],
    shipped: str,
    *trajectories: Override,
    brief: dict[str, tuple[Override, ...]],
) -> dict[str, TrainingRun]:
    """Returns both stages of a student, with and without the GAN head.

    Also returns a student whose teacher never saw a cut; `brief` shortens its stages.
    """
    ode, dmd = (f"configs/{stage}.py{size}" for stage in ("ode_init", "dmd"))
    return {
        "ode": TrainingRun(ode, teacher="base", films=films, overrides=trajectories),
        "student": TrainingRun(dmd, init="ode", teacher="base", films=films, shipped=shipped),
        "student-no-gan": TrainingRun(
            dmd,
            init="ode",
            teacher="base",
            films=films,
            overrides=(("gan.generator_weight", "0.0"),),
        ),
        "single-ode": TrainingRun(
            ode,
            teacher="single-base",
            films=_SINGLE,
            overrides=(*trajectories, *brief.get("ode", ())),
        ),
        "single-student": TrainingRun(
            dmd,
            init="single-ode",
            teacher="single-base",
            films=films,
            overrides=brief.get("dmd", ()),
        ),
    }


_QUIET: Override = ("sample.at_end", "False")
_BASE_STEPS: tuple[Override, ...] = (
    ("steps", "400"),
    ("optim.warmup", "20"),
    ("checkpoint.every", "100"),
    _QUIET,
    ("held_out.every", "0"),
)
# What two cores can do in an hour.
_BRIEF = {"ode": (("steps", "150"), ("ode.films", "160")), "dmd": (("steps", "300"),)}
_BOTH, _WORLD, _SINGLE = ("base", "montage"), ("storyworld",), ("single",)

SCALES = {
    "base": ExperimentScale(
        about="films of 80x48 pixels, 117 frames (7.3 s) and 3 to 5 shots, on two CPU cores",
        world="base",
        vae="base",
        films={
            "base": FilmStore("base", 1024),
            "montage": FilmStore("montage", 1536),
            "single": FilmStore("single", 512),
        },
        runs={
            "base": TrainingRun("configs/embedded.py:films_last", shipped=EMBEDDED),
            **_students("", _BOTH, STUDENT, ("ode.store", "{out}/trajectories"), brief=_BRIEF),
            "single-base": TrainingRun(
                "configs/embedded.py:first",
                films=_SINGLE,
                overrides=(("steps", "600"), ("data.world", "single"), _QUIET),
            ),
            "multi-base": TrainingRun(
                "configs/embedded.py:first", films=("base",), overrides=(("steps", "600"), _QUIET)
            ),
            **_variants("configs/embedded.py:films_last", _BOTH, *_BASE_STEPS),
        },
    ),
    "storyworld": ExperimentScale(
        about="films of 160x96 pixels, 237 frames (14.8 s) and 5 shots, on one H200",
        world="storyworld",
        vae="autoencoder",
        films={
            "storyworld": FilmStore("storyworld", 20_000),
            "single": FilmStore("storyworld-single", 20_000),
        },
        runs={
            "autoencoder": TrainingRun("configs/storyworld.py:autoencoder"),
            "base": TrainingRun("configs/storyworld.py", films=_WORLD),
            **_students(":storyworld", _WORLD, "", brief={}),
            "single-base": TrainingRun(
                "configs/storyworld.py",
                films=_SINGLE,
                overrides=(("data.world", "storyworld-single"), _QUIET),
            ),
            "multi-base": TrainingRun("configs/storyworld.py", films=_WORLD, overrides=(_QUIET,)),
            **_variants(
                "configs/storyworld.py", _WORLD, ("steps", "1000"), ("optim.warmup", "50"), _QUIET
            ),
        },
    ),
}
