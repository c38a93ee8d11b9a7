"""SIGTERM and Ctrl-C: a command ends within seconds, whatever it is doing, with one line and an exit code.

Both raise an exception in the main thread, which closes what is open. Python raises it only between bytecodes, so a
thread ends the process if the main thread stays in a library (compiling, reading) or is slow to clean up. Files are
always written atomically, so nothing is lost. A training run is asked instead (`deferred`): it saves its step and ends.
While C code of an import runs, where an exception would crash the process, the process ends directly. A second Ctrl-C
ends it at once.
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
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import FrameType
from typing import Any

from jaxft.problems import RunInterrupted

GRACE = 5.0  # seconds from the signal to the end
TICK = 0.1  # seconds
CODES: dict[int, int] = {signal.SIGTERM: RunInterrupted.exit_code, signal.SIGINT: 130}
# While JAX traces or compiles, one of these files is on the stack.
COMPILERS = ("jax/_src/compiler.py", "jax/_src/interpreters/mlir.py", "jax/_src/interpreters/partial_eval.py")


class Terminated(BaseException):
    """SIGTERM, raised in the main thread like KeyboardInterrupt: handlers of Exception do not catch it."""


class Request(threading.Event):
    """Whether a signal has asked this process to end, and which."""

    number: int = signal.SIGTERM


class Signals:
    """The signal handling of this process, of which there is one; inactive until `listen`."""

    def __init__(self) -> None:
        self.received: int | None = None  # the first signal that was not deferred
        self.told = False  # whether the last line is written
        self.advice: Callable[[], str] = str  # what to do next, for the last line; "" for nothing
        self.farewell: list[Callable[[int], None]] = []  # called with the exit code at the end
        self.pass_on: Callable[[int], object] | None = None  # another handler of SIGTERM, called while it is deferred
        self._unsaved: Callable[[], bool] = bool  # of the context `deferred` that is open; bool() is False
        self._lock = threading.Lock()

    def listen(self) -> None:
        """Starts handling signals. To be called in the main thread."""
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
        """Whether a log record only says, with a traceback, that the signal's exception passed through a library."""
        return self.received is not None and bool(record.exc_info)

    def take_back(self) -> None:
        """Handles SIGTERM again after a C library replaced the handler. The library's own becomes `pass_on`."""
        library_handler = _c_handler()
        signal.signal(signal.SIGTERM, self._raise)
        own_handler = _c_handler()
        signal.signal(signal.SIGTERM, self._raise)
        if library_handler not in (None, own_handler):
            self.pass_on = ctypes.CFUNCTYPE(None, ctypes.c_int)(library_handler)

    def end(self, number: int, message: str | None = None) -> None:
        """Writes the last line, unless it is written, and ends the process and its children, from any thread."""
        self._lock.acquire()  # never released: a second caller waits for the end
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
        """The last line of a process that ends by a signal."""
        line = "interrupted" if number == signal.SIGINT else "stopped: asked to end (SIGTERM)"
        return f"{line}: {self.advice()}" if self.advice() else line

    @contextlib.contextmanager
    def deferred(self, interrupts: bool = True, unsaved: Callable[[], bool] = bool) -> Iterator[Request]:
        """A context in which SIGTERM, and the first Ctrl-C unless `interrupts` is False, is a request, for code that
        looks at it often and stops cleanly. Compilation is still interrupted, unless `unsaved()` says that work would
        be lost. A request at the end of the context is raised as the signal then. A signal before the context, whose
        exception a library has swallowed, is raised at its beginning. Does nothing in threads other than the main one,
        which cannot handle signals."""
        asked = Request()

        def ask(number: int, frame: FrameType | None) -> None:
            handler = former[number]
            if number == signal.SIGINT and asked.is_set() and callable(handler):
                handler(number, frame)  # which raises KeyboardInterrupt
            asked.number = number
            asked.set()
            if number == signal.SIGTERM and self.pass_on is not None:
                self.pass_on(number)

        if threading.current_thread() is not threading.main_thread():
            yield asked
            return
        if self.received is not None:
            self._raise(self.received, None)
        numbers = [signal.SIGTERM]
        if interrupts and callable(signal.getsignal(signal.SIGINT)):  # not ignored, as in the background of a script
            numbers.append(signal.SIGINT)
        former_unsaved = self._unsaved
        former: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
        try:
            for number in numbers:
                signal.signal(number, ask)
            self._unsaved = unsaved
            yield asked
        finally:
            self._unsaved = former_unsaved
            for number in numbers:
                signal.signal(number, former[number])
        if asked.is_set():
            signal.raise_signal(asked.number)

    def _unless_received(self, hook: Callable[[Any], object], arguments: Any) -> None:
        """Calls a hook for exceptions, except after a signal: those of destructors and threads are its consequences."""
        if self.received is None:
            hook(arguments)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if _loading_extension(frame):  # an exception in its initialisation crashes the process
            self.end(number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def _watch(self, reader: socket.socket) -> None:
        """Reacts to signals at once, whatever the main thread does."""
        interrupts = 0
        while received := reader.recv(1):
            number = received[0]
            if number not in CODES:
                continue
            interrupts += number == signal.SIGINT
            if interrupts > 1:
                self.end(number)
            threading.Thread(target=self._end_late, args=(number,), daemon=True).start()

    def _end_late(self, number: int) -> None:
        left = GRACE
        while left > 0:
            time.sleep(TICK)
            deferred = signal.getsignal(number) != self._raise and (self._unsaved() or not _compiling())
            left = GRACE if deferred else left - TICK
        self.end(number)


signals = Signals()


def _c_handler() -> int | None:
    """The address of the C handler of SIGTERM, None if there is none. Resets it to the default."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    return libc.signal(int(signal.SIGTERM), None)


def _compiling() -> bool:
    """Whether the main thread is tracing or compiling."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_filename.endswith(COMPILERS):
            return True
        frame = frame.f_back
    return False


def _loading_extension(frame: FrameType | None) -> bool:
    """Whether a module that is written in C is being imported."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _children(process: int) -> list[int]:
    """The child processes of a process and theirs, on Linux."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found + [below for child in found for below in _children(child)]
