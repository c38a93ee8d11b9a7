"""SIGTERM and Ctrl-C: a command ends within seconds, whatever it does, with one line and an exit code.

Both become an exception in the main thread, which ends what is open. Python raises it only between two steps of its
own: a thread watches, and ends a process whose main thread stays in a library (compiling, reading) or is slow to clean
up. Everything on disk is whole at every moment, so nothing is lost by that. A second Ctrl-C ends the process at once.
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from jaxft.problems import RunInterrupted

GRACE = 5.0  # seconds from the signal to the end
TICK = 0.1  # seconds
CODES = {signal.SIGTERM: RunInterrupted.exit_code, signal.SIGINT: 130}
# Files of JAX of which one is on the stack while it traces or compiles.
COMPILERS = ("jax/_src/compiler.py", "jax/_src/interpreters/mlir.py", "jax/_src/interpreters/partial_eval.py")


class Terminated(BaseException):
    """SIGTERM. Raised wherever the main thread is, as KeyboardInterrupt is: no handler of errors should catch it."""


class Signals:
    """What this process does at a signal. There is one for a process: `listen` makes it act."""

    def __init__(self):
        self.received: int | None = None  # the first signal that was not deferred
        self.told = False  # the last line was written
        self.advice: Callable[[], str] = str  # what to do next, for the last line; "": nothing
        self.farewell: list[Callable[[int], None]] = []  # called with the exit code before the end
        self.pass_on: Callable[[int], object] | None = None  # whoever listened to SIGTERM before
        self._lock = threading.Lock()

    def listen(self) -> None:
        """Take signals from now on; in the main thread."""
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.signal(signal.SIGTERM, self._raise)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in the background of a script
            signal.signal(signal.SIGINT, self._raise)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True, name="signals").start()
        sys.unraisablehook = partial(self._unless_received, sys.unraisablehook)
        threading.excepthook = partial(self._unless_received, threading.excepthook)

    def is_consequence(self, record: logging.LogRecord) -> bool:
        """Whether a library logs, with its traceback, that the signal's exception came through it."""
        return self.received is not None and bool(record.exc_info)

    def take_back(self) -> None:
        """SIGTERM again, after a library in C took it; that one hears of it by `pass_on` while it is deferred."""
        theirs = _c_handler()
        signal.signal(signal.SIGTERM, self._raise)
        ours = _c_handler()
        signal.signal(signal.SIGTERM, self._raise)
        if theirs not in (None, ours):
            self.pass_on = ctypes.CFUNCTYPE(None, ctypes.c_int)(theirs)

    def end(self, number: int, message: str | None = None) -> None:
        """Say the last line, unless it was said, and end the process from whichever thread, with all that it began."""
        self._lock.acquire()  # and never release: who comes second waits for the end
        code = CODES[number]
        if not self.told:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # show the cursor, which a live line hides
            os.write(2, f"{message or self.line(number)}\n".encode())
        for tell in self.farewell:
            tell(code)
        for child in _children(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        os._exit(code)

    def line(self, number: int) -> str:
        """The last line of a process that a signal ends."""
        line = "interrupted" if number == signal.SIGINT else "stopped: asked to end (SIGTERM)"
        return f"{line}: {self.advice()}" if self.advice() else line

    @contextlib.contextmanager
    def deferred(self) -> Iterator[threading.Event]:
        """While it is open SIGTERM sets the event, and whoever is inside ends in good order soon; only compiling is
        still cut short. A signal that nobody looked at takes effect at the end. Other threads than the main one cannot
        take signals: nothing changes there.
        """
        asked = threading.Event()

        def ask(number, frame):
            asked.set()
            if self.pass_on is not None:
                self.pass_on(number)

        if threading.current_thread() is not threading.main_thread():
            yield asked
            return
        former = signal.signal(signal.SIGTERM, ask)
        try:
            yield asked
        finally:
            signal.signal(signal.SIGTERM, former)
        if asked.is_set():
            signal.raise_signal(signal.SIGTERM)

    def _unless_received(self, hook: Callable, news) -> None:
        """What a destructor or a thread meets while everything ends tells nobody anything."""
        if self.received is None:
            hook(news)

    def _raise(self, number, frame):
        self.received = self.received or number
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def _watch(self, reader: socket.socket):
        """Hears of a signal at once, whatever the main thread does."""
        interrupts = 0
        while number := reader.recv(1):
            number = number[0]
            if number not in CODES:
                continue
            interrupts += number == signal.SIGINT
            if interrupts > 1:
                self.end(number)
            threading.Thread(target=self._end_late, args=(number,), daemon=True).start()

    def _end_late(self, number: int):
        left = GRACE
        while left > 0:
            time.sleep(TICK)
            deferred = number == signal.SIGTERM and signal.getsignal(number) != self._raise and not _compiling()
            left = GRACE if deferred else left - TICK
        self.end(number)


signals = Signals()


def _c_handler() -> int | None:
    """The address of what the system calls at SIGTERM, None for nothing; from now on it calls nothing."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    return libc.signal(int(signal.SIGTERM), None)


def _compiling() -> bool:
    """Whether the main thread traces or compiles."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    while frame is not None:
        if frame.f_code.co_filename.endswith(COMPILERS):
            return True
        frame = frame.f_back
    return False


def _children(process: int) -> list[int]:
    """The processes that one began, and theirs; on Linux."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found + [below for child in found for below in _children(child)]
