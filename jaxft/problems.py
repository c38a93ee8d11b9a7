"""Errors in the user's input: all problems together, each with its fix."""

import contextlib
import difflib
import reprlib
import signal
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

SHOWN = 10  # problems, or names of a list, in one message
LONGEST = 60  # characters of a value in a message
WHOLE = 2000  # characters of a problem
MOST = 50  # problems that are printed
SEARCHED = 1000  # rows in which problems are counted that take long to find
COMPARED = 20_000  # known names that are compared for a suggestion


class _Short(reprlib.Repr):
    """Beginnings of texts, numbers of any size, and a limited number of items and levels."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxother = 4, 2 * LONGEST
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxarray = LONGEST // 3

    def repr_str(self, value: Any, level: int) -> str:
        return repr(value[: LONGEST + 1])

    repr_bytes = repr_str

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if abs(value) < 10**LONGEST else f"a number of more than {LONGEST} digits"


SHORT = _Short()


@dataclass(frozen=True)
class RowCheck:
    """A fast check of rows: `of(row)` gives its faults, `say(fault)` the message for one of them."""

    of: Callable[[dict], Iterable[Hashable]]
    say: Callable[[Hashable], str]

    def __call__(self, rows: Iterable[dict]) -> None:
        """Raises a UserError with the first SHOWN faults of the rows."""
        if found := dict.fromkeys(fault for row in rows for fault in self.of(row)):
            raise UserError(map(self.say, islice(found, SHOWN)), self)


class UserError(Exception):
    """One or more problems in the user's input. A command prints them without a traceback and exits with 2.

    `check` finds the same faults in other rows.
    """

    def __init__(self, problems: str | Iterable[str], check: RowCheck | None = None):
        self.problems: list[str] = list(map(bounded, [problems] if isinstance(problems, str) else problems))
        self.check = check
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        more = len(self.problems) - MOST
        rest = [f"{more:,} more problems"] if more > 0 else []
        return "\n- ".join([f"{len(self.problems)} problems:", *self.problems[:MOST], *rest])


class RunStopped(Exception):
    """A run cannot continue; the message says why and what to try. A command prints it and exits with 1."""

    exit_code = 1


class RunInterrupted(RunStopped):
    """A run was asked to stop, by SIGTERM or Ctrl-C, and can be resumed by the same command.

    It exits with 75 (EX_TEMPFAIL), after Ctrl-C with 130.
    """

    exit_code = 75

    def __init__(self, number: int, saved: str):
        interrupted = number == signal.SIGINT
        self.exit_code = 130 if interrupted else RunInterrupted.exit_code
        super().__init__(f"asked to end ({'Ctrl-C' if interrupted else 'SIGTERM'}), {saved}")


def raise_problems(problems: Iterable[str]) -> None:
    """Raises one UserError with all problems; does nothing if there are none."""
    problems = list(problems)
    if problems:
        raise UserError(problems)


@contextlib.contextmanager
def reading(file: object) -> Iterator[None]:
    """A context in which an OSError, such as a missing permission, becomes a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise_problems([f"{file} cannot be read: {error.strerror or type(error).__name__}"])


def with_row_numbers(
    error: UserError, rows: Iterable[dict], first: int, name: str, read: Callable[[list], object]
) -> UserError:
    """A UserError for `error`, which `read` raised for some of `rows`: each problem once, with its rows.

    `first` is the number of the first row, from 1. All rows are checked if the error has a `check`, else the first
    SEARCHED. The error has at most SHOWN problems, and the number of others.
    """
    check = error.check or RowCheck(lambda row: _problems_of(read, row), str)
    found: dict[Hashable, tuple[int, int]] = {}  # fault -> first row, number of rows
    others = last = 0
    for number, row in enumerate(rows if error.check else islice(rows, SEARCHED), first):
        last = number
        for fault in dict.fromkeys(_faults_of(check, row)):
            if fault in found:
                found[fault] = (found[fault][0], found[fault][1] + 1)
            elif len(found) < SHOWN:
                found[fault] = (number, 1)
            else:
                others += 1
    least = "" if error.check or last < first + SEARCHED - 1 else "at least "
    problems = [
        f"{_where(name, start, count, least)}: {_message(check, fault)}" for fault, (start, count) in found.items()
    ]
    problems += [f"{name}: {least}{others:,} more problems like these"] if others else []
    return UserError(problems or error.problems)


def _where(name: str, first: int, count: int, least: str) -> str:
    return f"{name}, row {first}" if count == 1 else f"{name}, {least}{count:,} rows, first {first}"


def _problems_of(read: Callable[[list], object], row: dict) -> list[str]:
    try:
        read([row])
    except UserError as single:
        return single.problems
    return []


def _faults_of(check: RowCheck, row: dict) -> list[Hashable]:
    """The faults of a row; a UserError of the check itself is a fault as well."""
    try:
        return list(check.of(row))
    except UserError as single:
        return [(UserError, problem) for problem in single.problems]


def _message(check: RowCheck, fault: Hashable) -> str:
    return fault[1] if isinstance(fault, tuple) and fault[0] is UserError else check.say(fault)


def truncated_repr(value: Any) -> str:
    """The repr of a value for a message, at most LONGEST characters, computed in bounded time for huge values."""
    return clipped(SHORT.repr(value))


def listed(names: Iterable[Any], most: int = SHOWN) -> str:
    """Names for a message, separated by commas: at most `most`, each clipped, and how many there are in all."""
    names = list(names)
    text = ", ".join(clipped(name) if isinstance(name, str) else truncated_repr(name) for name in names[:most])
    return text + (f", ... ({len(names):,} in all)" if len(names) > most else "")


def bounded(problem: str) -> str:
    """The problem; if it is longer than WHOLE, its beginning and its end, where the fix is."""
    if len(problem) <= WHOLE:
        return problem
    return f"{problem[: WHOLE * 3 // 4]} ... {problem[-WHOLE // 5 :]}"


def clipped(text: str, most: int = LONGEST) -> str:
    """The text, or its beginning if it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def suggest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" with the known name closest to `name`, or "" if none is close."""
    close = near(name, known, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def near(name: str, known: Iterable[str], most: int = 3, likeness: float = 0.6) -> list[str]:
    """The known names closest to `name`, best first, ignoring case and '-' against '_'.

    `likeness` is the least that counts, from 0, no letter in common, to 1, the same name. Texts longer than LONGEST,
    and names after the first COMPARED, are not compared, because that takes seconds.
    """
    if len(name) > LONGEST:
        return []
    by_fold: dict[str, str] = {}
    for candidate in islice(known, COMPARED):
        if len(candidate) <= 2 * LONGEST:
            by_fold.setdefault(_fold(candidate), candidate)
    return [by_fold[fold] for fold in difflib.get_close_matches(_fold(name), by_fold, most, likeness)]


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")
