"""Which tokens a score comes from: python -m jaxft.explain --model=DIR --input=FILE --output=FILE.html

Writes one page that needs no network: the first --limit rows' texts, each token coloured by what it does to the score
that the model gives its likeliest class, or --target. Without --baseline the token that stands for nothing is the
tokenizer's mask, or else its padding, unknown or end token, the first that there is.
"""

import json
import sys

import jaxft
from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config.ranges import Count


def main(flags):
    from jaxft.attribution.explanation import explain, write_numbers
    from jaxft.data.source import Data
    from jaxft.host.output_file import check_output
    from jaxft.inference.inputs import text_columns, texts_of
    from jaxft.inference.model import load

    check_output(flags.output, flags.numbers)
    rows = Data(path=flags.input, limit=flags.limit).open()
    model = load(flags.model)
    columns = text_columns(rows, model.inference, flags.text, flags.pair)
    texts = texts_of(model.arch.kind, rows[0 : len(rows)], columns)
    how = {name: getattr(flags, name) for name in ("method", "target", "word", "baseline", "steps", "batch", "output")}
    found = explain(model, texts, **how)
    if flags.numbers:
        write_numbers(flags.numbers, found)
    print(json.dumps({"rows": len(rows), "output": flags.output}))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        command.ROWS,
        Flag("output", "where the page goes", required=True, value="FILE.html"),
        Flag("numbers", "where the numbers go as well, a line of JSON for each row", value="FILE.jsonl"),
        Flag("text", "column of the text (default: that of the training)", value="COLUMN"),
        Flag("pair", "column of a second text, or of a list of choices", value="COLUMN"),
        Flag("limit", "rows to explain, from the start", type=Count, default=100),
        Flag(
            "method",
            "integrated-gradients, input-x-gradient, occlusion or attention-rollout",
            default="integrated-gradients",
            value="HOW",
        ),
        Flag("target", "class, tag, token, or number of a choice, to explain (default: the likeliest)", value="NAME"),
        Flag("word", "of texts with tags: the word whose tag to explain", value="WORD"),
        Flag("baseline", "token that stands for nothing", value="TOKEN"),
        Flag("steps", "points between the baseline and the text", type=Count, default=32),
        command.BATCH,
    )
else:
    # `import jaxft.explain` puts this into the package under the function's name: it is to be the function then, too.
    sys.modules[__name__] = jaxft.explain
