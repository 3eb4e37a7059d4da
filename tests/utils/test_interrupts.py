"""Ctrl-C and SIGTERM at bad moments: during imports, and in a process's children."""

import importlib
import os
import signal
import subprocess
import sys
import time
import types

import pytest
from repository import ROOT

from causalcine_jax.cli import run
from causalcine_jax.errors import StoppedEarly
from causalcine_jax.training.stopping import StopRequest
from causalcine_jax.utils import interrupts
from causalcine_jax.utils.interrupts import children_without_ctrl_c, send_again, terminable

WORK = 5  # seconds until a command ends by itself, if a signal did not end it
CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
# As the C code of an extension module does, which is stopped while it is imported.
MODULE = """
import signal
try:
    signal.raise_signal({number})
except BaseException as error:
    raise ImportError("initialization failed") from error
"""


@pytest.fixture(autouse=True)
def not_in_the_background():
    """A job in the background ignores Ctrl-C, and one of `nohup` SIGHUP. So do their children."""
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def importing(tmp_path, monkeypatch):
    """Imports a module during which a signal arrives, then works."""
    monkeypatch.syspath_prepend(tmp_path)

    def importing(number, seconds=WORK):
        (tmp_path / f"stopped_by_{number}.py").write_text(MODULE.format(number=number))
        importlib.invalidate_caches()
        importlib.import_module(f"stopped_by_{number}")
        time.sleep(seconds)

    yield importing
    for number, _ in CODES:
        sys.modules.pop(f"stopped_by_{number}", None)


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_command_ends_quietly_where_an_import_is_in_progress(number, code, importing, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: importing(number.value))
    assert ended.value.code == code and capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_during_an_import_stops_training_before_its_first_step(number, code, importing):
    with StopRequest(), pytest.raises(StoppedEarly, match="before the first step"):
        importing(number.value)


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_stop_is_not_lost_when_training_listens_in_the_meantime(number, code, importing, capsys):
    def main():
        importing(number.value, seconds=0)
        with StopRequest():
            time.sleep(WORK)

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 75 and "before the first step" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("program", [["-m", "causalcine_jax", "train"], ["launch/train.py"]])
def test_a_command_that_is_just_being_imported_ends_quietly(program, number, code, tmp_path):
    (tmp_path / "argparse.py").write_text(MODULE.format(number=number.value))  # which cli.py needs
    done = subprocess.run(
        [sys.executable, *program, "--config=configs/base.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert (done.returncode, done.stderr) == (code, "interrupted\n")


def test_a_dropped_connection_ends_a_command_as_sigterm_does():
    with pytest.raises(SystemExit) as ended:
        run(lambda: (signal.raise_signal(signal.SIGHUP), time.sleep(WORK)))
    assert ended.value.code == 143
    with terminable(), StopRequest() as training:
        training.immediate = False
        signal.raise_signal(signal.SIGHUP)
        assert training.asked
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_after_nohup_a_dropped_connection_ends_nothing():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with pytest.raises(SystemExit) as ended:
        run(lambda: signal.raise_signal(signal.SIGHUP))
    assert ended.value.code == 0


def test_children_do_not_see_ctrl_c():
    child = [sys.executable, "-c", "import signal; signal.raise_signal(2); print('goes on')"]
    with children_without_ctrl_c():
        held = subprocess.run(child, capture_output=True, text=True)
    assert (held.returncode, held.stdout) == (0, "goes on\n")
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_sent_again_is_not_lost_where_a_wait_just_begins(number, code, monkeypatch):
    """The first one comes to another thread, as if before the wait: no wait ends by it."""
    sent = []

    def kill(process, again):
        sent.append(again)
        signal.raise_signal(again) if len(sent) == 1 else killed(process, again)

    killed = os.kill
    monkeypatch.setattr(os, "kill", kill)

    def main():
        send_again(number)
        time.sleep(WORK)

    with pytest.raises(SystemExit) as ended:
        run(main)
    # It would be sent until the wait ends by itself.
    assert ended.value.code == code and sent == [number] * 2


def test_a_server_gets_a_signal_once(monkeypatch):
    """Of uvicorn's handlers a second signal ends a server without its last messages."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append(number))
    monkeypatch.setattr(interrupts, "AGAIN", interrupts.SOON)
    before = signal.signal(signal.SIGTERM, types.MethodType(lambda self, number, frame: None, ""))
    send_again(signal.SIGTERM)
    time.sleep(20 * interrupts.SOON)
    signal.signal(signal.SIGTERM, before)
    assert sent == [signal.SIGTERM]
