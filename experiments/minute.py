"""Films of a minute, at scale base: what changes along them. Nothing is trained for this table."""

from experiments.plan import CAMR, LONGER, Claim, Row, Table

ALONG = {
    "long.consistency": "intra-shot consistency",
    "long.self_recall": "self recall",
    "long.prompt": "prompt accuracy",
}
MINUTE = Table(
    title=f"Films {LONGER} times as long as those of training",
    paper="Table 1 has films of 15 s. Here a model makes films "
    f"{LONGER} times as long as those of training: do characters still look as they did?",
    rows=(
        Row("student, its own memory", "student"),
        Row("student under camr", "student", CAMR),
        Row("base, its own memory", "base"),
    ),
    columns=ALONG
    | {
        "long.self_recall_first": "self recall, first quarter",
        "long.self_recall_last": "self recall, last quarter",
        "long.consistency_first": "consistency, first quarter",
        "long.consistency_last": "consistency, last quarter",
    },
    claims=tuple(
        Claim(
            f"{who}: {what} of the last quarter is at most 0.05 below that of the first",
            (run, f"long.{column}_last"),
            (run, f"long.{column}_first"),
            at_least=-0.05,
        )
        for who, run in (("student", "student"), ("base", "base"))
        for what, column in (("self recall", "self_recall"), ("consistency", "consistency"))
    ),
    curves=ALONG,
    made="Each eighth of a film is drawn like a training film, with the same cast throughout. "
    "Self recall: whether a character that returns has the colour and accessory of its first "
    "shot in the same film. All history stays in memory. Nothing is trained for this table.",
)
