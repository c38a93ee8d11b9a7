"""Ask a model about every row of a file: python -m jaxft.predict --model=DIR --input=FILE --output=FILE.jsonl

Writes one JSON line for each input row (or a row of a .parquet table) in the same order: the row's own fields, then the
answer; one that the row has a field for is called predicted_NAME. To .npy go embeddings alone. Inputs are read as the
model's evaluation read them, which its jaxft.json says: the same columns, cut at the same length, decoded in the same
way. The flags depart from that, and the log says so. Without that file the text is in column --text, a second one in
--pair; of a model that answers questions these are question and context, of one that chooses question and choices.
"""

import json

from jaxft.cli import command
from jaxft.cli.command import Flag


def main(flags):
    from jaxft.data.source import Data
    from jaxft.host.output_file import check_output
    from jaxft.inference.answer_files import write_answers
    from jaxft.inference.inputs import text_columns
    from jaxft.inference.model import load

    check_output(flags.output)
    rows = Data(path=flags.input).open()
    model = load(flags.model).departing(max_length=flags.max_len, decode=flags.decode, prompt_name=flags.prompt_name)
    columns = text_columns(rows, model.inference, flags.text, flags.pair)
    write_answers(model, rows, columns, flags.batch, flags.output)
    print(json.dumps({"rows": len(rows), "output": flags.output}))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        command.ROWS,
        Flag("output", "where the answers go", required=True, value="FILE.jsonl|.parquet|.npy"),
        Flag("text", "column of the text, or a template: '{word}: {sentence}'", value="COLUMN"),
        Flag("pair", "column of a second text, or of all choices; empty: there is none", value="COLUMN[,COLUMN]"),
        Flag("max-len", "most tokens of an input", type=int, value="N"),
        command.BATCH,
        Flag("prompt-name", "of embeddings: the prompt in front of the texts; empty: none", value="NAME"),
        Flag("decode", "tags of words: argmax, or viterbi for sequences that their scheme allows", value="HOW"),
    )
