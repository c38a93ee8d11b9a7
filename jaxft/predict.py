"""Ask a model about every row of a file: python -m jaxft.predict --model=DIR --input=FILE --output=FILE.jsonl

Writes one JSON line for each input row (or a row of a .parquet table) in the same order: the row's own fields, then the
answer; one that the row has a field for is called predicted_NAME. To .npy go embeddings alone. The text is in column
--text, a second one in column --pair; of a model that answers questions these are by themselves the columns question
and context, of one that chooses among several texts question and choices, a list.
"""

import json

from jaxft import command
from jaxft.command import Flag


def main(flags):
    from jaxft.answer_files import write_answers
    from jaxft.answers import text_columns
    from jaxft.api import load
    from jaxft.data.source import Data
    from jaxft.output_file import check_output

    check_output(flags.output)
    rows = Data(path=flags.input).open()
    model = load(flags.model)
    columns = text_columns(rows, model.arch.kind, flags.text, flags.pair)
    how = {} if flags.decode is None else {"decode": flags.decode}
    write_answers(model, rows, columns, flags.batch, flags.output, **how)
    print(json.dumps({"rows": len(rows), "output": flags.output}))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        command.ROWS,
        Flag("output", "where the answers go", required=True, value="FILE.jsonl|.parquet|.npy"),
        Flag("text", "column of the text (default: text), or a template: '{word}: {sentence}'", value="COLUMN"),
        Flag("pair", "column of a second text, or the columns of all choices", value="COLUMN[,COLUMN]"),
        command.BATCH,
        Flag("decode", "tags of words: argmax, or viterbi for sequences that their scheme allows", value="HOW"),
    )
