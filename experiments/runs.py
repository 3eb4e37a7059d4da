"""Every model that the tables measure, at two sizes: from which config it is trained, on which films, from and by which other model."""

from experiments.plan import Films, Override, Run, Scale

EMBEDDED = "causalcine_jax/weights/storyworld"
STUDENT = "causalcine_jax/weights/storyworld-student"


def _continued(*overrides: Override, config: str, films: tuple[str, ...]) -> Run:
    return Run(config, init="base", films=films, overrides=overrides)


def _variants(config: str, films: tuple[str, ...], *recipe: Override) -> dict[str, Run]:
    """The same base trained on with another memory, or other positions."""
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
) -> dict[str, Run]:
    """Both stages of a student, with and without the head, and of one whose teacher never saw a cut; `brief` shortens the latter's."""
    ode, dmd = (f"configs/{stage}.py{size}" for stage in ("ode_init", "dmd"))
    return {
        "ode": Run(ode, teacher="base", films=films, overrides=trajectories),
        "student": Run(dmd, init="ode", teacher="base", films=films, shipped=shipped),
        "student-no-gan": Run(
            dmd,
            init="ode",
            teacher="base",
            films=films,
            overrides=(("gan.generator_weight", "0.0"),),
        ),
        "single-ode": Run(
            ode,
            teacher="single-base",
            films=_SINGLE,
            overrides=(*trajectories, *brief.get("ode", ())),
        ),
        "single-student": Run(
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
)
# What two cores do in an hour.
_BRIEF = {"ode": (("steps", "150"), ("ode.films", "160")), "dmd": (("steps", "300"),)}
_BOTH, _WORLD, _SINGLE = ("base", "montage"), ("storyworld",), ("single",)

SCALES = {
    "base": Scale(
        about="films of 48x80, two CPU cores",
        world="base",
        vae="base",
        films={
            "base": Films("base", 1024),
            "montage": Films("montage", 1536),
            "single": Films("single", 512),
        },
        runs={
            "base": Run("configs/embedded.py:last", shipped=EMBEDDED),
            **_students("", _BOTH, STUDENT, ("ode.store", "{out}/trajectories"), brief=_BRIEF),
            "single-base": Run(
                "configs/embedded.py:first",
                films=_SINGLE,
                overrides=(("steps", "600"), ("data.world", "single"), _QUIET),
            ),
            "multi-base": Run(
                "configs/embedded.py:first", films=("base",), overrides=(("steps", "600"), _QUIET)
            ),
            **_variants("configs/embedded.py:last", _BOTH, *_BASE_STEPS),
        },
    ),
    "storyworld": Scale(
        about="films of 96x160, one H200",
        world="storyworld",
        vae="autoencoder",
        films={
            "storyworld": Films("storyworld", 20_000),
            "single": Films("storyworld-single", 20_000),
        },
        runs={
            "autoencoder": Run("configs/storyworld.py:autoencoder"),
            "base": Run("configs/storyworld.py", films=_WORLD),
            **_students(":storyworld", _WORLD, "", brief={}),
            "single-base": Run(
                "configs/storyworld.py",
                films=_SINGLE,
                overrides=(("data.world", "storyworld-single"), _QUIET),
            ),
            "multi-base": Run("configs/storyworld.py", films=_WORLD, overrides=(_QUIET,)),
            **_variants(
                "configs/storyworld.py", _WORLD, ("steps", "1000"), ("optim.warmup", "50"), _QUIET
            ),
        },
    ),
}
