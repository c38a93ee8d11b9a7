"""Evaluate a model: python -m jaxft.evaluate --workdir=DIR [--step=N], or --model=DIR --config=FILE.py

Prints one JSON line of metrics for each evaluation set of the run or the configuration, then lines for its classes
(--classes) and its slices (--by); on a terminal, tables. With --bootstrap a line has `interval`: metric -> [low, high].
Answers to questions are written in the format of their benchmark, to predictions/SET.json in the work directory or in
--output.
"""

from pathlib import Path
from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config.ranges import Count
from jaxft.problems import UserError


def main(flags: SimpleNamespace) -> None:
    from jaxft.evaluation.breakdown import Breakdown
    from jaxft.parallel.distributed import distributed_session
    from jaxft.reports.terminal import print_evaluation
    from jaxft.training.saved_run import evaluate_model, evaluate_run

    if (flags.workdir is None) == (flags.model is None):
        raise UserError("give either --workdir=DIR, or --model=DIR with --config=FILE.py")
    if flags.model is not None and flags.config is None:
        raise UserError("--model=DIR needs --config=FILE.py: the configuration names the task and the evaluation sets")
    if flags.output is not None and Path(flags.output).is_file():
        raise UserError(f"--output={flags.output} is a file: name a folder")
    breakdown = Breakdown(flags.bootstrap, flags.by, flags.classes)
    with distributed_session():
        if flags.model is not None:
            results = evaluate_model(flags.config, flags.model, breakdown, flags.output)
        else:
            results = evaluate_run(flags.workdir, flags.step, breakdown, flags.output)
    print_evaluation(results)


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.WORKDIR_OPTIONAL,
        command.MODEL_OPTIONAL,
        command.CONFIG_OPTIONAL,
        Flag("step", "step of the checkpoint", type=Count, value="N"),
        Flag("output", "folder for the prediction files", value="FOLDER"),
        Flag("bootstrap", "resamples for 95% intervals of the metrics, such as 1000", type=Count, value="N"),
        Flag("by", "also metrics by the values of a column, or by length (number of tokens)", value="COLUMN"),
        Flag("classes", "also precision, recall and F1 of each class, and their averages", type=bool),
        command.ALLOW_IMPORT,
    )
