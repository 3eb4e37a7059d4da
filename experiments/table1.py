"""Table 1: one model's weights under each family's rollout (causalcine_jax/rollouts.py)."""

import dataclasses

from causalcine_jax.config import MemoryConfig
from causalcine_jax.rollouts import ROLLOUTS, RolloutPreset
from experiments.plan import FAR, Claim, Row, Setting, Table

MODEL = "base"
COLUMNS = {
    "films.sca": "shot-cut accuracy",
    "films.prompt": "prompt accuracy",
    "films.consistency": "intra-shot consistency",
    "films.self_recall": "self recall",
    "recall.mean": "recall, mean",
    "recall.near": f"absent for less than {FAR} chunks",
    "recall.far": "absent for longer",
}
CLAIMED = {
    "films.sca": "cuts where asked more often than",
    "films.prompt": "follows prompts more than",
    "recall.mean": "recalls more than",
}


def _changes(memory: MemoryConfig) -> tuple[Setting, ...]:
    """The policy, which a model may name otherwise, and what differs from CausalCine's rollout."""
    own = dataclasses.asdict(ROLLOUTS["causalcine"].memory)
    return tuple(
        (name, value)
        for name, value in dataclasses.asdict(memory).items()
        if name == "policy" or value != own[name]
    )


def _described(rollout: RolloutPreset) -> str:
    return f"* **{rollout.title}** ({rollout.paper}). {rollout.about} *Doubts:* {rollout.doubts}"


_OURS, *_OTHERS = (Row(each.title, MODEL, _changes(each.memory)) for each in ROLLOUTS.values())

TABLE1 = Table(
    title="Table 1: the causal families' rollouts, same weights",
    paper="Table 1: of causal models, CausalCine has the best text alignment and the best shot-cut "
    "accuracy (0.973). Self-Forcing has 0.505, Infinity-RoPE 0.784, LongLive 0.502, MemFlow 0.509 "
    "and ShotStream 0.965. In text alignment CausalCine has 0.198 and ShotStream, the next, 0.175. "
    "There each model has its own weights; here all have the same.",
    rows=(_OURS, *_OTHERS),
    columns=COLUMNS,
    claims=tuple(
        Claim(
            f"CausalCine {words} {row.label}",
            (_OURS.key, column),
            (row.key, column),
            at_least=0.0,
            strict=True,
        )
        for column, words in CLAIMED.items()
        for row in _OTHERS
    ),
    curves={},
    made="Where a cell says so, nothing is measured: the command below was only tried, on one film "
    "of each row. CausalCine's own row is the base's of the other tables. Every row is the base "
    "model, which was trained under CausalCine's rollout. So the table tells what a rollout does "
    "to weights that know cuts, not how good the families' models are. No row is trained under "
    "its own rollout. Sizes in frames are those of the families' code, which are for longer "
    "films. ShotStream is left out, because its second cache is not reproduced. LongLive-RAG is "
    "not in the paper's table. Films under a rollout that recaches or flushes are made one by "
    "one, because their cuts are at different chunks."
    "\n\n" + "\n".join(_described(each) for each in ROLLOUTS.values()),
)
