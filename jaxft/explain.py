"""Attribute scores to tokens: python -m jaxft.explain --model=DIR --input=FILE --output=FILE.html

Writes one page that needs no network: the texts of the first --limit rows, with each token coloured by its effect on
the score of the predicted class, or of --target. The default --baseline is the first that the tokenizer has of its
mask, padding, unknown and end token.
"""

import json
import sys
from types import SimpleNamespace

import jaxft
from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config.ranges import Count


def main(flags: SimpleNamespace) -> None:
    from jaxft.attribution.explain import explain
    from jaxft.attribution.explanation import write_numbers
    from jaxft.data.source import Data
    from jaxft.host.output_file import check_output
    from jaxft.inference.inputs import text_columns, texts_of
    from jaxft.inference.model import load

    check_output(flags.output, flags.numbers)
    rows = Data(path=flags.input, limit=flags.limit).open()
    model = load(flags.model)
    columns = text_columns(rows, model.inference, flags.text, flags.pair)
    texts = texts_of(model.arch.kind, rows[0 : len(rows)], columns)
    names = ("method", "target", "word", "baseline", "steps", "batch", "output")
    found = explain(model, texts, **{name: getattr(flags, name) for name in names})
    if flags.numbers:
        write_numbers(flags.numbers, found if isinstance(found, list) else [found])
    print(json.dumps({"rows": len(rows), "output": flags.output}))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        command.ROWS,
        Flag("output", "file for the page", required=True, value="FILE.html"),
        Flag("numbers", "file for the numbers, one line of JSON for each row", value="FILE.jsonl"),
        Flag("text", "column of the text (default: that of the training)", value="COLUMN"),
        Flag("pair", "column of a second text, or of a list of choices", value="COLUMN"),
        Flag("limit", "rows to explain, from the start", type=Count, default=100),
        Flag(
            "method",
            "integrated-gradients, input-x-gradient, occlusion or attention-rollout",
            default="integrated-gradients",
            value="HOW",
        ),
        Flag("target", "class, tag, token, or number of a choice to explain (default: predicted)", value="NAME"),
        Flag("word", "for token classification: the word whose tag to explain", value="WORD"),
        Flag("baseline", "token that replaces others", value="TOKEN"),
        Flag("steps", "points between the baseline and the text", type=Count, default=32),
        command.BATCH,
    )
else:
    # `import jaxft.explain` binds this module to the name of the function in the package: make it the function.
    sys.modules[__name__] = jaxft.explain  # type: ignore[assignment]  # a function in the place of a module
