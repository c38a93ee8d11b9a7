"""Prove that a model computes what it computes in PyTorch: python -m jaxft.parity --model=DIR [--json]

Hidden states of each layer, logits, loss and the gradient of every tensor, on random texts and those of --input, or on
random images or sounds: beside transformers in PyTorch, or a file that --write has left where PyTorch is installed.
Exit code 1 where they differ.
"""

from jaxft.cli import command
from jaxft.cli.command import Flag


def main(flags):
    import numpy as np

    from jaxft.host.output_file import check_output
    from jaxft.inference.model import load
    from jaxft.parity_check.compare import compare, read_reference
    from jaxft.parity_check.inputs import make_inputs
    from jaxft.parity_check.report import report, texts_in

    check_output(flags.write)
    model = load(flags.model, flags.head)
    reference = read_reference(flags.reference) if flags.reference else make_inputs(model, texts_in(flags.input))
    if flags.write:
        np.savez(flags.write, **reference)
    report(compare(model, reference), flags.json)


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.MODEL,
        Flag("head", "a head; without it the one that config.json names", value="NAME"),
        Flag("input", "texts to compare on, one a line", value="FILE.txt"),
        Flag("reference", "what PyTorch computed elsewhere", value="FILE.npz"),
        Flag("write", "keep what PyTorch computes", value="FILE.npz"),
        command.JSON,
    )
