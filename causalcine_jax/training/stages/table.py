"""The stages of training by name, with what is known of each before its networks and data are.

Config, loading, planning, benchmarks and the command line's help ask this table, so it imports
nothing. The stage itself is in spec.py, under the same name.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageFacts:
    """What a stage trains on and starts from.

    networks  whose sizes are those of the model that it starts from
    student   it makes a few-step student and starts from `teacher`; other stages start from `init`
    clips     it learns from clips that are painted meanwhile, not from the films of a latent store,
              and fits one device: it is neither planned nor timed
    """

    networks: tuple[str, ...] = ("transformer", "text_encoder")
    student: bool = False
    clips: bool = False


STAGES = {
    "teacher_forcing": StageFacts(),
    "autoencoder": StageFacts(networks=("vae",), clips=True),
    "ode_init": StageFacts(student=True),
    "dmd": StageFacts(student=True),
}
FILM_STAGES = tuple(name for name, facts in STAGES.items() if not facts.clips)
