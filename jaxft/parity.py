"""Compare a model with transformers in PyTorch: python -m jaxft.parity --model=DIR [--json]

Compares the hidden states of each layer, logits, loss and the gradient of every tensor, on random texts and those of
--input, or on random images or sounds. PyTorch runs now, or its results come from a file that --write wrote elsewhere.
Exit code 1 if they differ.
"""

from types import SimpleNamespace
from typing import Any

from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.problems import raise_problems


def main(flags: SimpleNamespace) -> None:
    import numpy as np

    from jaxft.adapters.prompt_files import base_of
    from jaxft.host.output_file import check_output
    from jaxft.inference.model import load
    from jaxft.parity_check.compare import compare, read_reference
    from jaxft.parity_check.inputs import make_inputs
    from jaxft.parity_check.report import report, texts_in

    check_output(flags.write)
    adapter = "--model is an adapter: parity compares whole models. Compare its base, or the merged model"
    raise_problems([adapter] if base_of(flags.model) is not None else [])
    model = load(flags.model, flags.head)
    reference = read_reference(flags.reference) if flags.reference else make_inputs(model, texts_in(flags.input))
    if flags.write:
        arrays: dict[str, Any] = dict(reference)  # NumPy's stub takes any keyword for `allow_pickle`
        np.savez(flags.write, **arrays)
    report(compare(model, reference), flags.json)


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        Flag("head", "head (default: the one in config.json)", value="NAME"),
        Flag("input", "texts to compare on, one per line", value="FILE.txt"),
        Flag("reference", "PyTorch's results, written elsewhere", value="FILE.npz"),
        Flag("write", "file for PyTorch's results", value="FILE.npz"),
        command.JSON,
    )
