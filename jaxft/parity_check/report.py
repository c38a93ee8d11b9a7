"""What a proof comes to, in words or as JSON."""

import dataclasses
import math
from pathlib import Path

from jaxft.host.strict_json import dumps
from jaxft.parity_check.compare import Check
from jaxft.problems import RunStopped, raise_problems


def texts_in(file: str | None) -> list[str]:
    """The lines of a file that say something."""
    if file is None:
        return []
    try:
        texts = [line for line in Path(file).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise_problems([f"--input={file} cannot be read: {error}"])
    return texts


def report(checks: list[Check], as_json: bool) -> None:
    """Print the comparisons; raises RunStopped (exit code 1) that names the first one that does not hold."""
    first = next((check for check in checks if not check.holds), None)
    if as_json:
        rows = [row(check) for check in checks]
        print(dumps({"equal": first is None, "first": first and first.what, "checks": rows}))
    else:
        print("\n".join(line(check) for check in truncated_repr(checks)))
    if first is not None:
        raise RunStopped(
            f"not equal: {first.what}: {first.difference:.1e} from float64 is more than {first.limit:.1e}, where "
            f"PyTorch's own float32 has {first.own:.1e}"
        )


def row(check: Check) -> dict:
    """For JSON, which has no NaN."""
    numbers = {
        name: value if math.isfinite(value) else None
        for name, value in dataclasses.asdict(check).items()
        if isinstance(value, float)
    }
    return dataclasses.asdict(check) | numbers | {"holds": check.holds}


def truncated_repr(checks: list[Check]) -> list[Check]:
    """All but gradients that hold, of which only the worst counts."""
    good = [check for check in checks if check.what.startswith("gradient") and check.holds]
    worst = max(good, key=lambda check: check.difference, default=None)
    return [check for check in checks if check not in good or check is worst]


def line(check: Check) -> str:
    """The verdict, how far from float64 jaxft is, how far PyTorch's float32, and how far jaxft may be; where float32
    alone does not show it, how far jaxft in float64 is."""
    verdict = "equal " if check.holds else "DIFFER"
    exact = "" if check.exact is None else f"  in float64 {check.exact:.1e}"
    return f"{verdict}  {check.difference:8.1e}  PyTorch {check.own:.1e}  limit {check.limit:.1e}{exact}  {check.what}"
