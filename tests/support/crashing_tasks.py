"""Tasks of a pool's processes, which import no more than this."""

import os


def all_but_five(number: int) -> int:
    if number == 5:
        os._exit(3)
    return number


def dies(*arguments) -> None:
    os._exit(3)
