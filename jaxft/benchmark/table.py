"""The report of a benchmark (rounds.py) as text."""

import statistics
from collections.abc import Mapping
from typing import Any

# Name in the report -> title, format, factor.
LINES = {
    "step_seconds": ("step", "{:,.0f} ms", 1e3),
    "seconds": ("time", "{:,.2f} s", 1),
    "again_seconds": ("second time", "{:,.2f} s", 1),
    "read_seconds": ("with reading every array", "{:,.2f} s", 1),
    "read_again_seconds": ("second time", "{:,.2f} s", 1),
    "useful_tokens_per_second": ("useful tokens/s", "{:,.0f}", 1),
    "padded_tokens_per_second": ("tokens/s with padding", "{:,.0f}", 1),
    "useful_share": ("useful", "{:.1f}%", 100),
    "peak_bytes": ("peak memory", "{:,.0f} MiB", 2**-20),
    "compile_seconds": ("compiling", "{:,.1f} s", 1),
    "data_seconds": ("waiting for data, per step", "{:,.1f} ms", 1e3),
    "log_seconds": ("a log point", "{:,.1f} ms", 1e3),
    "save_seconds": ("a checkpoint delays the loop by", "{:,.0f} ms", 1e3),
    "write_seconds": ("a checkpoint until it is on disk", "{:,.0f} ms", 1e3),
}
WIDTH = (34, 28, 28, 8)


def table(report: Mapping[str, Any]) -> str:
    """Medians, with the quartiles of all steps. Ratios above 1 mean that jaxft is better."""
    lines = [f"{report['model']} on {report['device']}, medians of {report['rounds']} rounds"]
    for row in ("train", "evaluate", "load"):
        if row in report:
            lines += ["", *_section(row, report[row])]
    return "\n".join(lines)


def _section(row: str, result: Mapping[str, Any]) -> list[str]:
    sides = [name for name in result if name != "ratio"]
    lines = [_line(row, *sides, *(["ratio"] if "ratio" in result else []))]
    for name, (title, _, _) in LINES.items():
        if name not in result[sides[0]]:
            continue
        cells = [_cell(name, result[side]) for side in sides]
        if "ratio" in result:
            cells.append(f"{result['ratio'][name]:.2f}" if name in result["ratio"] else "")
        lines.append(_line("  " + title, *cells))
    return lines


def _cell(name: str, numbers: Mapping[str, Any]) -> str:
    if name not in numbers:
        return ""
    _, form, scale = LINES[name]
    text = form.format(numbers[name] * scale)
    if name == "step_seconds":
        low, _, high = statistics.quantiles(numbers["steps"], n=4) if len(numbers["steps"]) > 1 else [numbers[name]] * 3
        text += f" ({low * scale:,.0f} to {high * scale:,.0f})"
    return text


def _line(*cells: str) -> str:
    return "".join(
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, WIDTH, strict=False))
    )
