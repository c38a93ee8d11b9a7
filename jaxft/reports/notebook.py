"""The progress of a run in a Jupyter notebook: a live line, the curve of the loss, and the latest evaluations."""

import contextlib
import html
import importlib
import sys
from collections.abc import Iterator, Mapping

import numpy as np

from jaxft.reports.curves import HEIGHT, WIDTH, Axis, path, short, thin, y_axis
from jaxft.reports.progress import Clock, describe

COLOURS = ("#3367d6", "#d9822b", "#2e8b57", "#8e44ad")  # of training, and of the evaluation sets


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process, so that it shows HTML. Does not import IPython."""
    library = sys.modules.get("IPython")
    shell = library.get_ipython() if library is not None else None
    return shell is not None and shell.has_trait("kernel")


class Notebook:
    """A sink that shows one output, which it replaces at each log point."""

    def __init__(self, total: int):
        self.display = importlib.import_module("IPython.display")
        self.total, self.clock = total, Clock(total)
        self.line, self.evaluations = "starting", dict[str, str]()
        self.losses: dict[str, list[tuple[int, float]]] = {}
        self.handle = self.display.display(self._page(), display_id=True)

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        text = describe(step, self.total, split, numbers, self.clock.remaining(step, split))
        if split == "train":
            self.line = text
        else:
            self.evaluations[split] = text
        if "loss" in numbers:
            self.losses.setdefault(split, []).append((step, numbers["loss"]))
        self.handle.update(self._page())

    @contextlib.contextmanager
    def activity(self, text: str) -> Iterator[None]:
        """Shows `text` as the live line."""
        before, self.line = self.line, text
        self.handle.update(self._page())
        yield
        self.line = before

    def close(self) -> None:
        pass

    def _page(self) -> object:
        lines = "".join(f"<div>{html.escape(text)}</div>" for text in (self.line, *self.evaluations.values()))
        return self.display.HTML(f'<div style="font-family: monospace; white-space: pre">{lines}</div>{self._curves()}')

    def _curves(self) -> str:
        """The losses over the steps, as an SVG."""
        if not self.losses:
            return ""
        x, y = Axis(0, max(self.total, 1)), y_axis(np.array([v for one in self.losses.values() for _, v in one]))
        lines, names = "", ""
        for number, (split, points) in enumerate(self.losses.items()):
            steps, values = np.array(points).T
            drawn = thin(values)  # a long run's output stays small
            colour = COLOURS[number % len(COLOURS)]
            style = f'fill="none" stroke="{colour}" stroke-width="8" stroke-linecap="round"'
            lines += f'<path {style} d="{path(x.at(steps[drawn]), y.at(values[drawn]))}"/>'
            names += f'<span style="color: {colour}">{html.escape(split)} loss {short(values[-1])}</span> '
        box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="400" height="200" style="border: 1px solid #ccc"'
        return f"<svg {box}>{lines}</svg><div>{names}</div>"
