"""The first code of a command (`python -m jaxft.NAME`, `jaxft NAME`), which runs before any other import.

Python puts the current directory first in sys.path. Commands often run where others have written (a work directory,
data), and a file there with the name of a library would be executed instead of the library. So the current directory is
removed, and is appended only while the user's own modules are imported.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from types import FrameType

HELD = (signal.SIGTERM, signal.SIGINT)

_left_out: list[str] = []


def begin() -> None:
    """If a command of jaxft is starting, removes the current directory from sys.path and installs `end`."""
    if sys.argv[:1] != ["-m"] or not is_module(sys.orig_argv):  # argv is so while Python looks for the module
        return
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
        _left_out.append(sys.path.pop(0))
    _install()


def begin_script() -> None:
    """The same for the script `jaxft`, for which Python puts that script's folder first, not the current one."""
    if not sys.flags.safe_path:
        sys.path.pop(0)
        _left_out.append(os.getcwd())
    _install()


def _install() -> None:
    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """A context in which SIGTERM and Ctrl-C wait. If it executes another command of jaxft, which has no handlers at
    first, they wait until that command's `begin`."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextlib.contextmanager
def importable(*first: str) -> Iterator[None]:
    """A context in which modules of the folders `first` and of the current directory can be imported.

    A library with the same name as one of them goes first.
    """
    places = [place for place in dict.fromkeys((*first, *_left_out)) if place not in sys.path]
    sys.path.extend(places)
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
        # Namespace packages found there stay importable, such as JAX's for plug-ins, which it would execute.
        for name, module in list(sys.modules.items()):
            folders = [] if getattr(module, "__file__", None) else getattr(module, "__path__", [])
            if _lies_in(folders, places) and not _is_used(name):
                del sys.modules[name]


def _lies_in(folders: Iterable[str], places: list[str]) -> bool:
    return any(os.path.dirname(folder) == os.path.abspath(place) for folder in folders for place in places)


def _is_used(package: str) -> bool:
    return any(name.startswith(package + ".") for name in sys.modules)


def is_module(words: list[str]) -> bool:
    """Whether a command line runs jaxft, or a module of it, with `python -m`."""
    after = [word for flag, word in zip(words, words[1:], strict=False) if flag == "-m"]
    return any(word.split(".")[0] == "jaxft" for word in after)


def end(number: int, frame: FrameType | None) -> None:
    """Ends the process at a signal: nothing is open yet. From command.run on, signals.py handles signals."""
    interrupted = number == signal.SIGINT
    os.write(2, b"interrupted\n" if interrupted else b"stopped: asked to end (SIGTERM)\n")
    os._exit(130 if interrupted else 75)
