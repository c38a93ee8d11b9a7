"""Ask a model about every row of a file: python -m jaxft.predict --model=DIR --input=FILE --output=FILE.jsonl

Writes one JSON line for each input row, in the same order: the row's own fields, then the answer (a field that the row
has already is called predicted_NAME). The text is in column --text, a second one in column --pair.
"""

import json
import os

from jaxft import command
from jaxft.command import Flag
from jaxft.problems import raise_problems, suggest

CHUNK = 1024  # rows held at a time


def main(flags):
    from jaxft.api import load
    from jaxft.data.source import Data

    rows = Data(path=flags.input).open()
    columns = [name for name in (flags.text, flags.pair) if name is not None]
    raise_problems(
        f"{flags.input} has no column {name!r}.{suggest(name, rows.columns)} Columns: {', '.join(rows.columns)}. "
        "Name the right one with --text or --pair"
        for name in columns
        if name not in rows.columns
    )
    model = load(flags.model)
    partial = flags.output + ".partial"
    with open(partial, "w") as file:
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            texts = [tuple("" if row[name] is None else str(row[name]) for name in columns) for row in some]
            for row, answer in zip(some, model.predict(texts, flags.batch), strict=True):
                # The input's fields are kept: an answer of the same name is called predicted_NAME.
                answer = {f"predicted_{name}" if name in row else name: value for name, value in answer.items()}
                file.write(json.dumps({**row, **answer}, ensure_ascii=False, default=str) + "\n")
    os.replace(partial, flags.output)
    print(json.dumps({"rows": len(rows), "output": flags.output}))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        Flag("model", "Hugging Face directory, or hub name", required=True, value="DIR"),
        Flag("input", "rows: any file that training reads", required=True, value="FILE"),
        Flag("output", "where the answers go", required=True, value="FILE.jsonl"),
        Flag("text", "column of the text", default="text", value="COLUMN"),
        Flag("pair", "column of a second text", value="COLUMN"),
        Flag("batch", "rows computed together", type=int, default=32),
    )
