"""The first thing that a command does, before it imports anything: `python -m jaxft.NAME`.

Python puts the current directory before all others from which modules are imported. A command often runs where others
have written (a work directory, data), and a file that has a library's name there would run instead of the library. So
the current directory is left out, and comes last while the user's own modules are imported.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

_left_out: list[str] = []


def begin() -> None:
    """Where a command of jaxft is starting: leave the current directory out, and end without a traceback."""
    if sys.argv[:1] != ["-m"] or not _is_command(sys.orig_argv):  # which is what Python says while it looks for it
        return
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
        _left_out.append(sys.path.pop(0))
    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Inside, modules of the current directory can be imported where no library has their name."""
    places = list(_left_out)
    sys.path.extend(places)
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
        # A folder that a library looked for keeps its place: JAX's for plug-ins, of which it runs all that it finds.
        for name, module in list(sys.modules.items()):
            is_folder = getattr(module, "__file__", None) is None and hasattr(module, "__path__")
            if is_folder and _lies_in(module.__path__, places) and not _is_used(name):
                del sys.modules[name]


def _lies_in(folders, places: list[str]) -> bool:
    return any(os.path.dirname(folder) == os.path.abspath(place) for folder in folders for place in places)


def _is_used(package: str) -> bool:
    return any(name.startswith(package + ".") for name in sys.modules)


def _is_command(words: list[str]) -> bool:
    after = [word for flag, word in zip(words, words[1:], strict=False) if flag == "-m"]
    return any(word.split(".")[0] == "jaxft" for word in after)


def end(number, frame):
    """Nothing is open yet, so nothing is to be closed; from command.run on, signals.py does more."""
    interrupted = number == signal.SIGINT
    os.write(2, b"interrupted\n" if interrupted else b"stopped: asked to end (SIGTERM)\n")
    os._exit(130 if interrupted else 75)
