"""Train a model: python -m jaxft.train --config=FILE.py[:ARG] [--config.FIELD=VALUE ...] --workdir=DIR

Run again with the same --workdir, it goes on where it stopped, and with --extend for more steps or epochs than it had.
Prints the final metrics of each evaluation set, one JSON object a line. The model is written in the base
checkpoint's number format, be it float16, unless --config.export_dtype=float32 says otherwise; where that rounds the
weights, the log and the model card say what they score.
"""

from jaxft.cli import command

EXTEND = command.Flag("extend", "go on with the run in --workdir for more steps or epochs than it had", bool)


def main(flags):
    from jaxft.parallel.distributed import distributed_session, print_json
    from jaxft.training.fit import fit

    with distributed_session(flags.workdir):
        results = fit(flags.config, flags.workdir, flags.extend)
    for name, numbers in results.items():
        print_json({"split": name, **numbers})


if __name__ == "__main__":
    command.run(main, __doc__, command.CONFIG, command.WORKDIR, EXTEND)
