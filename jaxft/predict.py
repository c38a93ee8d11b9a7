"""Predict every row of a file: python -m jaxft.predict --model=DIR --input=FILE --output=FILE.jsonl

Writes one JSON line for each input row (or a row of a .csv, .tsv or .parquet table) in the same order: the row's
fields, then those of the prediction, called predicted_NAME if the row has a field NAME. A .npy file gets embeddings
only. Columns of numbers in .csv and .tsv are numbers in the output. Inputs are read as in the evaluation of the model
(its jaxft.json): the same columns, maximal length and decoding. Flags override that, with a log line. Without
jaxft.json the text is in column --text, a second one in --pair: for question answering question and context, for
multiple choice question and choices.
"""

import json
import os
from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.problems import raise_problems


def main(flags: SimpleNamespace) -> None:
    from jaxft.data.number_cells import with_numbers
    from jaxft.data.source import Data
    from jaxft.host.output_file import check_output
    from jaxft.inference.answer_files import write_answers
    from jaxft.inference.inputs import text_columns
    from jaxft.inference.model import load

    check_output(flags.output)
    same = os.path.realpath(flags.output) == os.path.realpath(flags.input)
    raise_problems(["--output is the file of --input: the answers would replace it. Name another file"] if same else [])
    rows = Data(path=flags.input).open()
    how = {"decode": flags.decode, "prompt_name": flags.prompt_name, "scores": flags.scores}
    model = load(flags.model).departing(max_length=flags.max_len, **how)
    columns = text_columns(rows, model.inference, flags.text, flags.pair)
    write_answers(model, rows, columns, flags.batch, flags.output, with_numbers(rows, flags.input))
    print(json.dumps({"rows": len(rows), "output": flags.output}))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        command.ROWS,
        Flag("output", "file for the predictions", required=True, value="FILE.jsonl|.csv|.tsv|.parquet|.npy"),
        Flag("text", "column of the text, or a template: '{word}: {sentence}'", value="COLUMN"),
        Flag("pair", "column of a second text, or of all choices; empty: none", value="COLUMN[,COLUMN]"),
        Flag("max-len", "maximal tokens of an input", type=int, value="N"),
        command.BATCH,
        Flag("prompt-name", "for embeddings: the prompt before the texts; empty: none", value="NAME"),
        Flag("scores", "for classes: all, for the scores of all labels as well", value="all"),
        Flag("decode", "for tags: argmax, or viterbi for sequences that the scheme allows", value="HOW"),
    )
