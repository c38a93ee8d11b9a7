"""Measure training, evaluation and loading: python -m jaxft.bench --config=FILE.py [--against=transformers] [--json]

Every measurement runs in its own process. With --against=transformers its Trainer does the same work with the same
model, rows and batch; the two take turns, and ratios are medians over the rounds. Needs an otherwise idle machine.
"""

from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config.ranges import Count
from jaxft.host.strict_json import dumps


def main(flags: SimpleNamespace) -> None:
    from jaxft.benchmark.rounds import bench
    from jaxft.benchmark.table import table

    rows = (flags.only,) if flags.only else ("train", "evaluate", "load")
    report = bench(flags.config, flags.against, flags.padding, rows, flags.rounds, flags.steps)
    print(dumps(report) if flags.json else table(report))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.CONFIG,
        Flag("against", "what to compare with", choices=("transformers",), value="NAME"),
        Flag(
            "padding",
            "how the other side pads: dynamic; grouped by length; fixed, both sides to max_len",
            default="dynamic",
            choices=("dynamic", "grouped", "fixed"),
            value="HOW",
        ),
        Flag("only", "a single measurement", choices=("train", "evaluate", "load"), value="WHICH"),
        Flag("rounds", "repetitions of every measurement", type=Count, default=3, value="N"),
        Flag("steps", "timed training steps per round", type=Count, default=20, value="N"),
        command.JSON,
    )
