"""Swap terms and see what changes: python -m jaxft.bias --model=DIR --input=FILE --swaps=FILE

--swaps is a list of pairs, such as he and she, or two names: a file with the columns term and other. Each row that
holds a term is classified as it is and with all of its terms swapped. One JSON line says how often the answer changes
and by how much its probability does, for each term too, and with --label how accurate both are. --output gets the rows.
"""

import json
import logging

from jaxft import command
from jaxft.command import Flag
from jaxft.problems import raise_problems, suggest


def main(flags):
    from jaxft.api import load
    from jaxft.counterfactual import compare_rows
    from jaxft.data.source import Data
    from jaxft.output_file import check_output
    from jaxft.swaps import read_swaps
    from jaxft.tasks.template import columns_of

    check_output(flags.output)
    swaps = read_swaps(flags.swaps)
    rows = Data(path=flags.input).open().named()
    columns = [name for name in (flags.text, flags.pair) if name is not None]
    raise_problems(
        f"{flags.input} has no column {name!r}.{suggest(name, rows.columns)} Columns: {', '.join(rows.columns)}. "
        "Name the right one with --text, --pair or --label"
        for name in columns_of(*columns, flags.label)
        if name not in rows.columns
    )
    for term, others in swaps.ambiguous.items():
        logging.getLogger("jaxft").info("%s is in several pairs (%s): it becomes the first", term, ", ".join(others))
    found = compare_rows(load(flags.model), rows, columns, flags.label, swaps, flags.batch)
    if flags.output is not None:
        found.write(flags.output)
    print(json.dumps(found.summary()))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        command.ROWS,
        Flag("swaps", "pairs of terms, in the columns term and other", required=True, value="FILE"),
        Flag("output", "where the rows that hold a term go, with both answers", value="FILE.jsonl"),
        Flag("text", "column of the text", default="text", value="COLUMN"),
        Flag("pair", "column of a second text", value="COLUMN"),
        Flag("label", "column of the true class", value="COLUMN"),
        command.BATCH,
    )
