"""Swap terms and compare predictions: python -m jaxft.bias --model=DIR --input=FILE --swaps=FILE

--swaps is a file of pairs, such as he and she, or two names, with the columns term and other. Each row that contains a
term is classified as it is and with all its terms swapped. Prints one JSON line: how often the class changes and by how
much its probability does, overall and for each term, and with --label both accuracies. --output gets the rows.
"""

import logging
from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.host.strict_json import dumps


def main(flags: SimpleNamespace) -> None:
    from jaxft.data.source import Data
    from jaxft.fairness.counterfactual import compare_rows
    from jaxft.fairness.swaps import read_swaps
    from jaxft.host.output_file import check_output
    from jaxft.inference.inputs import text_columns
    from jaxft.inference.model import load

    check_output(flags.output)
    swaps = read_swaps(flags.swaps)
    rows = Data(path=flags.input).open().named()
    model = load(flags.model)
    named = "--text, --pair or --label"
    columns = text_columns(rows, model.inference, flags.text, flags.pair, flags.label, named)
    for term, others in swaps.ambiguous.items():
        logging.getLogger("jaxft").info("%s is in several pairs (%s): the first is used", term, ", ".join(others))
    found = compare_rows(model, rows, columns, flags.label, swaps, flags.batch)
    if flags.output is not None:
        found.write(flags.output)
    print(dumps(found.summary()))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        command.ROWS,
        Flag("swaps", "pairs of terms, in the columns term and other", required=True, value="FILE"),
        Flag("output", "file for the rows that contain a term, with both predictions", value="FILE.jsonl"),
        Flag("text", "column of the text (default: that of the training)", value="COLUMN"),
        Flag("pair", "column of a second text; empty: none", value="COLUMN"),
        Flag("label", "column of the true class", value="COLUMN"),
        command.BATCH,
    )
