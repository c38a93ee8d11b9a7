"""Train and predict all tasks of a benchmark: python -m jaxft.suite --suite=configs/glue.py[:DIR] --workdir=DIR

Each task has a work directory in --workdir; complete ones are not trained again. --config.FIELD=VALUE changes a field
for all tasks. Prints one JSON line of metrics (in percent) per task, then the leaderboard's row. The files for the
benchmark's server are in submission/.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag


def main(flags: SimpleNamespace) -> None:
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
        Flag("only", "only these tasks", value="TASK,TASK"),
    )
