"""Write a run's model: python -m jaxft.export --workdir=DIR --output=DIR [--step=N] [--format=merged]

The directory loads in transformers; that of an adapter, in PEFT. A soft prompt is always written as an adapter. The
default is the best checkpoint, or the newest if none was ranked.
"""

from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config.ranges import Count


def main(flags: SimpleNamespace) -> None:
    from jaxft.parallel.distributed import distributed_session, print_json
    from jaxft.training.saved_run import export_run

    with distributed_session():
        step = export_run(flags.workdir, flags.output, flags.step, flags.format)
    print_json({"step": step, "output": flags.output})


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.WORKDIR,
        Flag("output", "directory to write", required=True, value="DIR"),
        Flag("step", "step of the checkpoint", type=Count, value="N"),
        Flag("format", "what to write; default: merged, if possible", choices=("merged", "adapter")),
        command.ALLOW_IMPORT,
    )
