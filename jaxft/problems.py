"""Errors that are the user's to fix: every problem at once, each with its fix."""

import difflib
from collections.abc import Callable, Iterable

SHOWN = 10  # bad rows that one message lists


class UserError(Exception):
    """One or more problems in what the user gave. A command prints them without a traceback and exits with 2."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n- ".join([f"{len(self.problems)} problems:", *self.problems])


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


def located(error: UserError, rows: list, first: int, name: str, read: Callable[[list], object]) -> UserError:
    """`error`, which `read(rows)` raised, with row numbers: what each bad row of `name` alone raises.

    `first` is the number of the first row, from 1. At most SHOWN problems.
    """
    problems = []
    for number, row in enumerate(rows, first):
        try:
            read([row])
        except UserError as single:
            problems += [f"{name}, row {number}: {problem}" for problem in single.problems]
        if len(problems) >= SHOWN:
            break
    return UserError(problems or error.problems)


def shown(value) -> str:
    """A value for a message, not too long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def suggest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" with the known name closest to `name`, or "" if none is close."""
    close = near(name, known, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def near(name: str, known: Iterable[str], most: int = 3, likeness: float = 0.6) -> list[str]:
    """The known names closest to `name`, best first; case and '-' against '_' do not count.

    `likeness` is the least that counts: 1 for the same name, 0 for no letter in common.
    """
    by_fold: dict[str, str] = {}
    for candidate in known:
        by_fold.setdefault(_fold(candidate), candidate)
    return [by_fold[fold] for fold in difflib.get_close_matches(_fold(name), by_fold, most, likeness)]


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")
