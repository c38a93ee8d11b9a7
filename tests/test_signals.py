"""SIGTERM and Ctrl-C end a command within seconds, whatever it does, with one line and no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxft.host.signals import signals

WITHIN = 20  # seconds, on a busy machine
ROOT = Path(__file__).parent.parent
COMMAND = '''"""Does one thing for a long time."""
import hashlib, importlib.machinery, logging, subprocess, sys, threading, time
import jaxft.host.signals
from jaxft.cli import command
jaxft.host.signals.GRACE = float(sys.argv.pop())

def ready():
    print("ready", flush=True)

def sleep():
    ready()
    time.sleep(100)

def library():
    """In C, where Python's own handlers do not run."""
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

def swallow():
    ready()
    while True:
        try:
            time.sleep(100)
        except BaseException:
            pass

class Loader(importlib.machinery.ExtensionFileLoader):
    def exec_module(self, module):
        ready()
        try:
            time.sleep(100)
        except BaseException:
            print("raised in C", flush=True)

def extension():
    """Many modules written in C crash if an exception is raised while they are imported."""
    Loader("slow", "slow.so").exec_module(None)

def converted():
    """A library makes another error of it."""
    ready()
    try:
        time.sleep(100)
    except BaseException:
        raise ValueError("a damaged file") from None

class Noisy:
    def __del__(self):
        raise ValueError("ended")

def reported():
    """A library logs what came through it; threads and destructors meet that all ends."""
    noisy = Noisy()
    ready()
    try:
        time.sleep(100)
    except BaseException:
        logging.getLogger("library").exception("saving failed")
        del noisy
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        raise

def child():
    process = subprocess.Popen(["sleep", "100"])
    print(process.pid, flush=True)
    library()

def threads():
    threading.Thread(target=time.sleep, args=(100,)).start()
    sleep()

def lost():
    """A library loses the signal just before a run starts to look for requests."""
    ready()
    try:
        time.sleep(100)
    except BaseException:
        pass
    with jaxft.host.signals.signals.deferred():
        time.sleep(100)

def compile(count=1000, unsaved=False):
    import jax, jax.numpy as jnp
    jax.config.update("jax_enable_compilation_cache", False)
    def slow(x):
        for _ in range(count):
            x = jnp.sort(x) * 2
        return x
    lowered = jax.jit(slow).lower(jnp.ones((8, 128)))
    with jaxft.host.signals.signals.deferred(unsaved=lambda: unsaved):
        ready()
        lowered.compile()
        print("compiled", flush=True)

def unsaved():
    compile(count=1000, unsaved=True)  # some seconds, more than the grace

def deferred():
    with jaxft.host.signals.signals.deferred() as asked:
        ready()
        end = time.monotonic() + 3  # longer than the grace
        while time.monotonic() < end:
            time.sleep(0.1)
        print("in good order" if asked.is_set() else "not asked", flush=True)

def main(args):
    globals()[args.do]()

command.run(main, __doc__, command.Flag("do", "what to do"))
'''


@pytest.fixture(autouse=True)
def heard():
    """Where the tests themselves run in the background of a script, what they start would ignore Ctrl-C."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def begin(tmp_path, what, grace=1.0) -> subprocess.Popen:
    (tmp_path / "try.py").write_text(COMMAND)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, tmp_path / "try.py", f"--do={what}", str(grace)], env=env, **pipes)


def end(process, *numbers) -> tuple[int, str, str, float]:
    """(exit code, stdout after "ready", stderr, seconds) of a command that gets signals when it is ready."""
    while (line := process.stdout.readline()) != "ready\n":
        assert line, process.communicate()[1]
    time.sleep(0.3)
    start = time.monotonic()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.1)
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error, time.monotonic() - start


@pytest.mark.parametrize(
    "what", ["sleep", "library", "swallow", "lost", "extension", "converted", "reported", "threads"]
)
@pytest.mark.parametrize(
    "number, code, line",
    [(signal.SIGTERM, 75, "stopped: asked to end (SIGTERM)\n"), (signal.SIGINT, 130, "interrupted\n")],
)
def test_phases(tmp_path, what, number, code, line):
    got, out, error, seconds = end(begin(tmp_path, what), number)
    assert (got, out, error) == (code, "", line) and seconds < WITHIN


def test_a_second_interrupt_ends_at_once(tmp_path):
    got, out, error, seconds = end(begin(tmp_path, "library", 100.0), signal.SIGINT, signal.SIGINT)
    assert (got, out, error) == (130, "", "interrupted\n") and seconds < WITHIN


def test_children_end_as_well(tmp_path):
    process = begin(tmp_path, "child")
    child = int(process.stdout.readline())
    assert end(process, signal.SIGTERM)[0] == 75
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True).stdout
    assert status == "" or status.startswith("Z")


def test_compiling_is_cut_short(tmp_path):
    got, out, error, seconds = end(begin(tmp_path, "compile"), signal.SIGTERM)
    assert (got, out, error) == (75, "", "stopped: asked to end (SIGTERM)\n") and seconds < WITHIN


def test_compiling_is_waited_for_where_steps_would_be_lost(tmp_path):
    got, out, error, _ = end(begin(tmp_path, "unsaved", 0.2), signal.SIGTERM)
    assert (got, out, error) == (75, "compiled\n", "stopped: asked to end (SIGTERM)\n")


def test_a_request_is_answered_in_good_order(tmp_path):
    """And takes effect at the end where nobody looked at it; a second request by Ctrl-C does not wait."""
    for number, code, line in (
        (signal.SIGTERM, 75, "stopped: asked to end (SIGTERM)"),
        (signal.SIGINT, 130, "interrupted"),
    ):
        got, out, error, _ = end(begin(tmp_path, "deferred"), number)
        assert (got, out, error) == (code, "in good order\n", f"{line}\n")
        got, out, error, _ = end(begin(tmp_path, "deferred"), number, signal.SIGINT)
        assert (got, out, error) == (130, "", "interrupted\n")


def test_without_a_command_the_second_interrupt_is_pythons():
    handler, seen = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), signals.deferred() as asked:
        signal.raise_signal(signal.SIGINT)
        seen.append((asked.is_set(), asked.number))
        signal.raise_signal(signal.SIGINT)
    assert seen == [(True, signal.SIGINT)]
    assert signal.getsignal(signal.SIGINT) == handler and signals.received is None
    with signals.deferred(interrupts=False), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_starting(tmp_path):
    """Before anything is imported."""
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        lines = f"import os, signal, sys; sys.argv[0] = '-m'; import jaxft; os.kill(os.getpid(), {int(number)})"
        words = [sys.executable, "-c", lines, "-m", "jaxft.train"]
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == code and "Traceback" not in done.stderr


def test_restarting():
    """A signal that comes between a command and its restart with other memory options is not lost."""
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        lines = f"""
import os, sys
from jaxft.host import startup
with startup.signals_held():
    os.kill(os.getpid(), {int(number)})
    print("held", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "jaxft.train", "--help"])
"""
        done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stdout) == (code, "held\n") and "Traceback" not in done.stderr


EARLY = """
import os, signal, threading
from jaxft.cli import command

def start(self):
    os.kill(os.getpid(), signal.{signal})

threading.Thread.start = start  # the first that a command does: its signals' own thread
command.run(print, "x")
"""


@pytest.mark.parametrize("name, code", [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_while_the_command_begins_to_listen(name, code):
    done = subprocess.run([sys.executable, "-c", EARLY.format(signal=name)], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
