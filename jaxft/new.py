"""Write a configuration for a data file: jaxft new TASK --data=FILE [--eval=FILE] [--model=DIR] [--output=FILE.py]

TASK is the class of a task, such as Classify or TokenClassification. Looks at the columns, the classes and the lengths
of the rows, and writes a commented configuration to --output, or prints it. What is not clear is not guessed: the
message lists the candidates, and --config.task.FIELD=COLUMN names one.
"""

import logging
from pathlib import Path
from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.problems import UserError


def main(flags: SimpleNamespace) -> None:
    from jaxft.drafts.draft import draft
    from jaxft.host.output_file import check_output

    check_output(flags.output)
    if flags.output is not None and Path(flags.output).exists():
        raise UserError(f"--output={flags.output} exists: name another file")
    text = draft(flags.task, flags.data, flags.eval, flags.model, flags.settings)
    if flags.output is None:
        print(text, end="")
        return
    Path(flags.output).write_text(text, encoding="utf-8")
    logging.getLogger("jaxft").info("written to %s; the comments say what was seen in the data", flags.output)


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        Flag("task", "class of the task", required=True, value="TASK", word=True),
        Flag("data", "rows for training; --config.FIELD=VALUE sets a field", required=True, value="FILE", sets=True),
        Flag("eval", "rows for evaluation, with the same columns", value="FILE"),
        Flag("model", "Hugging Face directory, or hub name", value="DIR"),
        Flag("output", "file to write", value="FILE.py"),
    )
