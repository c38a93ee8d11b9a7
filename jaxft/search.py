"""Find the nearest rows by embedding: python -m jaxft.search --model=DIR --index=FILE --query=TEXT [--top=K]

Prints the rows of --index whose texts are nearest to the query, the best first: their fields, `row`, the number from
0, and `score`. As JSON lines, or as a table on a terminal. With --queries=FILE each of its rows is a query, and
--output=FILE.jsonl gets one line for each: its fields, and `hits`. Embeddings, their similarity and the prompts are
those of the model directory (sentence-transformers); without its modules, means of hidden states and their cosine.
"""

from types import SimpleNamespace

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config.ranges import Count
from jaxft.problems import raise_problems


def main(flags: SimpleNamespace) -> None:
    from jaxft.data.number_cells import with_numbers
    from jaxft.data.source import Data
    from jaxft.host.output_file import check_output
    from jaxft.inference.answer_files import write_hits
    from jaxft.inference.inputs import text_columns
    from jaxft.inference.model import load
    from jaxft.reports.terminal import print_records

    one = flags.query is not None and flags.queries is None and flags.output is None
    several = flags.query is None and flags.queries is not None and flags.output is not None
    raise_problems([] if one or several else ["give --query=TEXT, or --queries=FILE with --output=FILE.jsonl"])
    check_output(flags.output)
    rows = with_numbers(Data(path=flags.index).open(), flags.index)
    queries = with_numbers(Data(path=flags.queries).open(), flags.queries) if several else None
    model = load(flags.model, head="none").departing(max_length=flags.max_len)
    reader = model.departing(columns=tuple(text_columns(rows, model.inference, flags.text, flags="--text")))
    index = reader.index(rows, flags.method, flags.store, flags.prompt_name, flags.batch)
    if queries is None:
        (hits,) = model.search([flags.query], index, flags.top, flags.query_prompt, flags.batch)
        print_records(hits)
        return
    columns = text_columns(queries, model.inference, flags.query_text, flags="--query-text")
    asking = model.departing(columns=tuple(columns))
    write_hits(flags.output, queries, asking.search(queries, index, flags.top, flags.query_prompt, flags.batch))
    print_records([{"queries": len(queries), "output": flags.output}])


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        Flag("index", "rows to search, in a file of any format that training reads", required=True, value="FILE"),
        Flag("query", "text to search for", value="TEXT"),
        Flag("queries", "rows to search for, one after another, in a file", value="FILE"),
        Flag("output", "file for the hits of --queries", value="FILE.jsonl"),
        Flag("top", "hits of a query", type=Count, default=10),
        Flag("text", "column of the text in --index, or a template (default: that of the training)", value="COLUMN"),
        Flag("query-text", "column of the text in --queries, or a template", value="COLUMN"),
        Flag("prompt-name", "prompt before the texts of --index; empty: none", value="NAME"),
        Flag("query-prompt", "prompt before the queries; empty: none", value="NAME"),
        Flag(
            "method",
            "every row is compared, or approximate: needs jaxft[search]",
            default="exact",
            choices=("exact", "hnsw"),
        ),
        Flag("store", "folder that keeps the embeddings of --index: read if it has them, else written", value="FOLDER"),
        Flag("max-len", "maximal tokens of a text", type=int, value="N"),
        command.BATCH,
    )
