"""Output whose reader has gone: no work ends for a message, and no exit code is Python's own."""

import os
import subprocess
import sys
import textwrap

import pytest

FULL = "error: the disk is full: make room and run again\n"
PROGRAM = """
import sys
from causalcine_jax.cli import run

def main():
    {body}

run(main)
"""


def ended(body: str, redirect: str) -> subprocess.CompletedProcess:
    program = PROGRAM.format(body=textwrap.dedent(body).replace("\n", "\n    "))
    command = f'"$0" -c "$1" {redirect}'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", sys.executable, program],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        capture_output=True,
        text=True,
    )


def test_a_full_disk_behind_stdout_is_one_line():
    done = ended("print('a report')", "> /dev/full")
    assert (done.returncode, done.stderr) == (1, FULL)


def test_help_into_a_full_disk_is_one_line():
    body = "import argparse; argparse.ArgumentParser().parse_args(['--help'])"
    done = ended(body, "> /dev/full")
    assert (done.returncode, done.stderr) == (1, FULL)


def test_a_reader_that_has_gone_is_no_traceback():
    done = ended("print('line\\\\n' * 100_000)", "| true")
    assert done.stderr == "" and done.returncode in (0, 1)


@pytest.mark.parametrize("redirect", ["2> /dev/full", "2>&-"])
def test_messages_that_nobody_can_read_do_not_end_the_work(redirect):
    body = "for i in range(3): print('chunk', i, file=sys.stderr, flush=True)\nprint('finished')"
    done = ended(body, redirect)
    assert (done.returncode, done.stdout) == (0, "finished\n")


def test_a_stop_keeps_its_exit_code_where_the_terminal_has_gone():
    body = """
    from causalcine_jax.errors import StoppedEarly
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        print('kept: film.unfinished.mp4', file=sys.stderr, flush=True)
        raise StoppedEarly('stopped')
    """
    assert ended(body, "2> /dev/full").returncode == 75
