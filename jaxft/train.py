"""Train a model: python -m jaxft.train --config=FILE.py[:ARG] [--config.FIELD=VALUE ...] --workdir=DIR

The same command with the same --workdir continues the run; --extend allows more steps or epochs than before. Prints the
final metrics of each evaluation set, one JSON object per line. The model is written in the number format of the base
checkpoint, unless --config.export_dtype=float32 is set; if that rounds the weights, the log and the model card have the
metrics of the rounded ones.
"""

from types import SimpleNamespace

from jaxft.cli import command

EXTEND = command.Flag("extend", "continue the run in --workdir with more steps or epochs than before", bool)


def main(flags: SimpleNamespace) -> None:
    from jaxft.parallel.distributed import distributed_session, print_json
    from jaxft.training.fit import fit

    with distributed_session(flags.workdir):
        run = fit(flags.config, flags.workdir, flags.extend)
    for name, numbers in run.metrics.items():
        print_json({"split": name, **numbers})


if __name__ == "__main__":
    command.run(main, __doc__, command.CONFIG, command.WORKDIR, EXTEND, command.ALLOW_IMPORT)
