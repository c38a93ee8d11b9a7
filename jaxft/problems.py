"""Errors that are the user's to fix: every problem at once, each with its fix."""

import contextlib
import difflib
import reprlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import islice

SHOWN = 10  # problems, or names of a list, that one message has
LONGEST = 60  # characters of a value in a message
WHOLE = 2000  # characters of a problem
MOST = 50  # problems that are printed
SEARCHED = 1000  # rows in which a problem that takes long to find is counted
COMPARED = 20_000  # known names that a suggestion is looked for among


class _Short(reprlib.Repr):
    """Texts by their beginning, numbers of any size, and no more items and levels than a message has room for."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxother = 4, 2 * LONGEST
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxarray = LONGEST // 3

    def repr_str(self, value, level):
        return repr(value[: LONGEST + 1])

    repr_bytes = repr_str

    def repr_int(self, value, level):
        return repr(value) if abs(value) < 10**LONGEST else f"a number of more than {LONGEST} digits"


SHORT = _Short()


@dataclass(frozen=True)
class RowCheck:
    """A quick look at a row: `of(row)` are its faults, and `say(fault)` is one of them with its fix."""

    of: Callable[[dict], Iterable[Hashable]]
    say: Callable[[Hashable], str]

    def __call__(self, rows: Iterable[dict]) -> None:
        """Raises a UserError of the first SHOWN faults that the rows have."""
        if found := dict.fromkeys(fault for row in rows for fault in self.of(row)):
            raise UserError(map(self.say, islice(found, SHOWN)), self)


class UserError(Exception):
    """One or more problems in what the user gave. A command prints them without a traceback and exits with 2.

    `check` finds the same faults in further rows.
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
    """A run cannot go on; the message says why and what to try. A command prints it and exits with 1."""

    exit_code = 1


class RunInterrupted(RunStopped):
    """A run was asked to stop, and the same command would go on with it. A command exits with 75 (EX_TEMPFAIL)."""

    exit_code = 75


def raise_problems(problems: Iterable[str]) -> None:
    """Raises one UserError that lists all of `problems`; does nothing when there are none."""
    problems = list(problems)
    if problems:
        raise UserError(problems)


@contextlib.contextmanager
def reading(file):
    """A refusal of the system in here becomes a UserError that names the file.

    So do a directory that has its name, a name that is too long, and a lack of permission.
    """
    try:
        yield
    except OSError as error:
        raise_problems([f"{file} cannot be read: {error.strerror or type(error).__name__}"])


def with_row_numbers(
    error: UserError, rows: Iterable[dict], first: int, name: str, read: Callable[[list], object]
) -> UserError:
    """`error`, which `read` raised for some of `rows`, by rows: equal problems once, with the number of their rows.

    `first` is the number of the first row, from 1. All rows are looked at where the error has a `check`, else the
    first SEARCHED. At most SHOWN problems, and how many rows have others.
    """
    check = error.check or RowCheck(lambda row: _problems_of(read, row), str)
    found: dict[Hashable, list[int]] = {}  # fault -> first row, number of rows
    others = last = 0
    for number, row in enumerate(rows if error.check else islice(rows, SEARCHED), first):
        last = number
        for fault in dict.fromkeys(_faults_of(check, row)):
            if fault in found:
                found[fault][1] += 1
            elif len(found) < SHOWN:
                found[fault] = [number, 1]
            else:
                others += 1
    least = "" if error.check or last < first + SEARCHED - 1 else "at least "
    problems = [f"{_where(name, *place, least)}: {_said(check, fault)}" for fault, place in found.items()]
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
    """Faults of a row; what the check itself cannot read is one as well, as UserError says it."""
    try:
        return list(check.of(row))
    except UserError as single:
        return [(UserError, problem) for problem in single.problems]


def _said(check: RowCheck, fault: Hashable) -> str:
    return fault[1] if isinstance(fault, tuple) and fault[0] is UserError else check.say(fault)


def truncated_repr(value) -> str:
    """A value for a message, as Python writes it, at most LONGEST characters; of a huge one no more is written."""
    return clipped(SHORT.repr(value))


def listed(names: Iterable, most: int = SHOWN) -> str:
    """Names for a message, with commas between them: a few, each not too long, and how many more there are."""
    names = list(names)
    said = ", ".join(clipped(name) if isinstance(name, str) else truncated_repr(name) for name in names[:most])
    return said + (f", ... ({len(names):,} in all)" if len(names) > most else "")


def bounded(problem: str) -> str:
    """The problem; of one longer than WHOLE, whatever it quotes, the beginning and the end, where the fix is."""
    if len(problem) <= WHOLE:
        return problem
    return f"{problem[: WHOLE * 3 // 4]} ... {problem[-WHOLE // 5 :]}"


def clipped(text: str, most: int = LONGEST) -> str:
    """The text, or its beginning where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def suggest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" with the known name closest to `name`, or "" if none is close."""
    close = near(name, known, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def near(name: str, known: Iterable[str], most: int = 3, likeness: float = 0.6) -> list[str]:
    """The known names closest to `name`, best first; case and '-' against '_' do not count.

    `likeness` is the least that counts: 1 for the same name, 0 for no letter in common. Texts longer than a name, and
    more names than COMPARED, are not compared: that takes seconds.
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
