"""Train several configurations: python -m jaxft.sweep --config=FILE.py --workdir=DIR --config.lr=1e-5,3e-5 [--seeds=3]

Values separated by commas span a grid; for a field that itself holds several values, semicolons separate them. A..B is
a range, from which --search=random draws. Each trial has a work directory of its own in --workdir; the same command
goes on with an interrupted sweep. Prints mean and standard deviation of the metric for each point, and the command line
of the best one; sweep.json and sweep.html have the same. The exit code is 1 if a trial failed.
"""

from pathlib import Path
from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config.ranges import Count


def main(flags: SimpleNamespace) -> None:
    from jaxft.parallel.distributed import distributed_session
    from jaxft.sweeps.plan import Asked, plan_sweep
    from jaxft.sweeps.results import failures, show
    from jaxft.sweeps.run import run
    from jaxft.training.shared import Shared

    asked = Asked(
        flags.config,
        tuple(flags.settings),
        Path(flags.workdir),
        flags.seeds,
        flags.folds,
        flags.search,
        flags.trials,
        flags.metric,
    )
    with distributed_session():
        found = run(plan_sweep(asked, shared := Shared()), shared)
    show(found)
    failures(found)


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.CONFIG_SEVERAL,
        command.WORKDIR,
        Flag("seeds", "runs of each point, with seeds 0, 1, ...", type=Count, value="K"),
        Flag("folds", "cross-validation over the training rows, in K folds", type=Count, value="K"),
        Flag("search", "which points are tried", default="grid", choices=("grid", "random", "halving"), value="HOW"),
        Flag("trials", "points that random and halving draw", type=Count, value="N"),
        Flag("metric", "what to choose by, such as test/accuracy", value="EVAL/METRIC"),
        command.ALLOW_IMPORT,
    )
