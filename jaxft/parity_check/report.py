"""The result of a comparison, as text or JSON."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from jaxft.host.strict_json import dumps
from jaxft.parity_check.compare import Check
from jaxft.problems import RunStopped, UserError


def texts_in(file: str | None) -> list[str]:
    """The lines of a file that are not blank."""
    if file is None:
        return []
    try:
        texts = [line for line in Path(file).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--input={file} cannot be read: {error}") from None
    return texts


def report(checks: list[Check], as_json: bool) -> None:
    """Prints the comparisons. Raises RunStopped (exit code 1) with the first one that fails."""
    first = next((check for check in checks if not check.holds), None)
    if as_json:
        rows = [row(check) for check in checks]
        print(dumps({"equal": first is None, "first": first and first.what, "checks": rows}))
    else:
        print("\n".join(line(check) for check in without_repetition(checks)))
    if first is not None:
        raise RunStopped(
            f"not equal: {first.what}: {first.difference:.1e} from float64 is more than {first.limit:.1e}, where "
            f"PyTorch's own float32 has {first.own:.1e}"
        )


def row(check: Check) -> dict[str, Any]:
    """A comparison as a JSON object, with null for NaN."""
    numbers = {
        name: value if math.isfinite(value) else None
        for name, value in dataclasses.asdict(check).items()
        if isinstance(value, float)
    }
    return dataclasses.asdict(check) | numbers | {"holds": check.holds}


def without_repetition(checks: list[Check]) -> list[Check]:
    """The comparisons to print: of gradients that are equal only the one with the largest difference."""
    good = [check for check in checks if check.what.startswith("gradient") and check.holds]
    worst = max(good, key=lambda check: check.difference, default=None)
    return [check for check in checks if check not in good or check is worst]


def line(check: Check) -> str:
    """The differences of jaxft and PyTorch from float64, the limit, and that of jaxft in float64, if computed."""
    verdict = "equal " if check.holds else "DIFFER"
    exact = "" if check.exact is None else f"  in float64 {check.exact:.1e}"
    return f"{verdict}  {check.difference:8.1e}  PyTorch {check.own:.1e}  limit {check.limit:.1e}{exact}  {check.what}"
