"""Regular expressions over parameter paths such as "layers.11.attn.q.kernel".

A pattern must match a full path, or full components at its start: "layers.1" selects "layers.1.attn.q.kernel" but
nothing below "layers.10". Patterns are regular expressions, so "layers.1.*" also selects "layers.10": write "layers.1"
or r"layers\\.1\\..*".
"""

import re
from collections.abc import Iterable
from typing import Any

from jaxft.problems import near, truncated_repr


def match(pattern: str, path: str) -> bool:
    """Whether `pattern` matches `path` or one of its dotted prefixes."""
    compiled = re.compile(pattern)
    return any(compiled.fullmatch(prefix) for prefix in _prefixes(path))


def select(patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    """The paths that at least one pattern matches."""
    patterns = tuple(patterns)
    return {path for path in paths if any(match(pattern, path) for pattern in patterns)}


def lookup(table: Iterable[tuple[str, Any]], path: str, default: Any = None) -> Any:
    """The value of the first pattern of `table` that matches `path`."""
    return next((value for pattern, value in table if match(pattern, path)), default)


def unmatched_problems(patterns: Iterable[str], paths: Iterable[str], field: str) -> list[str]:
    """One sentence for each pattern that matches no path or is malformed; `field` is where it was set."""
    paths = sorted(set(paths))
    problems = []
    for pattern in patterns:
        if wrong := invalid_problem(pattern, field):
            problems.append(wrong)
        elif not any(match(pattern, path) for path in paths):
            problems.append(
                f"{field}: the pattern {truncated_repr(pattern)} matches no parameter.{_near_paths(pattern, paths)}"
            )
    return problems


def invalid_problem(pattern: str, field: str) -> str | None:
    """Why `pattern` is not a regular expression; None if it is one."""
    try:
        re.compile(pattern)
    except re.error as error:
        return f"{field}: {truncated_repr(pattern)} is not a regular expression: {error}"
    return None


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _near_paths(pattern: str, paths: list[str]) -> str:
    """Existing paths, or starts of paths, that look like the pattern without its regular expression signs."""
    plain = re.sub(r"\.[*+]\??|[\\^$()?*+]", "", pattern).strip(".")
    known = sorted({prefix for path in paths for prefix in _prefixes(path)})
    if close := near(plain, known):
        return f" Near names: {', '.join(close)}."
    return f" Parameters are named like {', '.join(paths[:3])}." if paths else " There are no parameters."
