"""Train and answer all tasks of a benchmark: python -m jaxft.suite --suite=configs/glue.py[:DIR] --workdir=DIR

Each task has a work directory in --workdir, and is not done again when it is done; --config.FIELD=VALUE changes that
field for all of them. Prints one JSON line of metrics (in percent) for each task, and last the leaderboard's row. What
the benchmark's server takes is in submission/.
"""

from functools import partial
from pathlib import Path

from jaxft.cli import command
from jaxft.cli.command import Flag


def main(flags):
    from jaxft.config import file as config_file
    from jaxft.evaluation import leaderboard
    from jaxft.parallel.distributed import distributed_session, print_json

    path, entries, configured = config_file.load_suite(flags.suite)
    with distributed_session():
        only = flags.only.split(",") if flags.only else None
        config = partial(command.configuration, settings=flags.settings)
        results = leaderboard.run(entries, lambda task: config(configured(task)), Path(flags.workdir), only)
    for task, numbers in results.items():
        print_json({"task": task, **numbers})
    print_json({"suite": path.stem, **leaderboard.row(results)})


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.SUITE,
        command.WORKDIR,
        Flag("only", "some of the tasks", value="TASK,TASK"),
    )
