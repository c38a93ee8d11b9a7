"""Measure training, evaluation and loading: python -m jaxft.bench --config=FILE.py [--against=transformers] [--json]

Every measurement is a process of its own. With --against=transformers its Trainer does the same work with the same
model, rows and batch; the two take turns, and ratios are medians over the rounds. Needs an otherwise idle machine.
"""

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config.ranges import Count
from jaxft.host.strict_json import dumps


def main(flags):

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
        Flag("against", "whom to compare with", choices=("transformers",), value="NAME"),
        Flag(
            "padding",
            "how the other side makes batches: dynamic, as it comes; grouped by length; fixed, both to max_len",
            default="dynamic",
            choices=("dynamic", "grouped", "fixed"),
            value="HOW",
        ),
        Flag("only", "one measurement", choices=("train", "evaluate", "load"), value="WHICH"),
        Flag("rounds", "times that everything is measured", type=Count, default=3, value="N"),
        Flag("steps", "training steps that are timed in each round", type=Count, default=20, value="N"),
        command.JSON,
    )
