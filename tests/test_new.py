"""`jaxft new TASK --data=FILE` writes a configuration that runs, and guesses nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers

from jaxft.cli.command import CONFIG, parse
from jaxft.drafts.draft import PLACEHOLDER, draft
from jaxft.drafts.roles import ROLES
from jaxft.models.checkpoint.sentence_embedding import SentenceEmbedding
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.training.sources import open_sources
from jaxft.tune.learning_rate import full_rate

ROOT = Path(__file__).parent.parent
TINY = ROOT / "jaxft/assets/tiny-encoder"
WORDS = "the cat sat on a mat and saw one small dog with its old friend near the long grey house".split()
RNG = np.random.default_rng(0)
COUNT = 40


def text(least=4, most=30) -> str:
    return " ".join(RNG.choice(WORDS, RNG.integers(least, most)))


def questions(number: int) -> dict:
    context = f"{number} {text()}"
    word = context.split()[2]
    answers = {"text": [word], "answer_start": [context.index(f" {word}") + 1]}
    return {"id": f"q{number}", "question": text(), "context": context, "answers": answers, "title": "cats"}


def sentence(number: int) -> dict:
    tokens = text().split()
    return {"id": number, "words": tokens, "ner": ["B-PER" if word == "dog" else "O" for word in tokens]}


# task -> how a row is made, and the fields that the configuration has to have
CASES = {
    "Classify": (lambda n: {"n": n, "review": text(), "stars": f"{n % 3}"}, {"text": "review", "label": "stars"}),
    "Classify pair": (
        lambda n: {"premise": text(), "hypothesis": text(), "gold": ["yes", "no"][n % 2]},
        {"text": "premise", "pair": "hypothesis", "label": "gold"},
    ),
    "MultiLabel": (lambda n: {"text": text(), "labels": ["ab"[n % 2], "c"]}, {"text": "text", "label": "labels"}),
    "MultiLabel columns": (
        lambda n: {"comment": text(), "toxic": n % 2, "insult": n // 2 % 2, "threat": n // 4 % 2},
        {"text": "comment", "label": ("toxic", "insult", "threat")},
    ),
    "Regress": (lambda n: {"essay": text(), "points": n / 7}, {"text": "essay", "label": "points"}),
    "TokenClassification": (sentence, {"words": "words", "tags": "ner"}),
    "EntitySpans": (
        lambda n: {
            "id": n,
            "text": f"Ann saw {text()}",
            "entities": [{"start": 0, "end": 3, "label": "PER"}] * (n > 0),
        },
        {"text": "text", "spans": "entities"},
    ),
    "QuestionAnswering": (questions, {"question": "question", "context": "context", "answers": "answers", "id": "id"}),
    "MultipleChoice": (
        lambda n: {"question": text(), "options": [text(), text(), text()], "answer": n % 3},
        {"text": "question", "choices": ("options",), "label": "answer"},
    ),
    "ContrastiveEmbedding": (lambda n: {"query": text(), "passage": text()}, {"text": "query", "pair": "passage"}),
    "Triplet": (
        lambda n: {"anchor": text(), "positive": text(), "negative": text()},
        {"text": "anchor", "pair": "positive", "negative": "negative"},
    ),
    "Similarity": (
        lambda n: {"sentence1": text(), "sentence2": text(), "score": n / COUNT * 5},
        {"text": "sentence1", "pair": "sentence2", "label": "score", "most": 4.875},
    ),
    "MaskedLM": (lambda n: {"body": text()}, {"text": "body"}),
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(make, name="rows.jsonl", count=COUNT) -> str:
        Path(name).write_text("".join(json.dumps(make(number)) + "\n" for number in range(count)))
        return name

    return write


def loaded(text: str):
    Path("drafted.py").write_text(text)
    return parse(["--config=drafted.py"], CONFIG).config


@pytest.mark.parametrize("case", CASES)
def test_columns_find_their_roles(case, write):
    make, fields = CASES[case]
    task = case.split()[0]
    written = draft(task, write(make), write(make, "test.jsonl"), str(TINY), [])
    cfg = loaded(written)
    assert type(cfg.task).__name__ == task and {name: getattr(cfg.task, name) for name in fields} == fields
    assert cfg.problems() == [] and max(map(len, written.splitlines())) <= 120
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(TINY))
    setting = EncodingContext(tokenizer, cfg.max_len, embedding=SentenceEmbedding(TINY))
    sources = open_sources(cfg)
    assert set(sources) == {"train", "val"}
    rows = sources["train"].only(cfg.task.columns())
    examples = cfg.task.prepare(rows, setting).encode(rows[:], setting)
    assert not any(isinstance(example, str) for example in examples)


def test_every_task_with_a_draft_has_a_case():
    only_texts = {name for name, roles in ROLES.items() if [role.name for role in roles] == ["text"]}
    assert {case.split()[0] for case in CASES} | only_texts == set(ROLES)


def test_the_length_is_that_of_the_tokenizer(write):
    """transformers' own lengths; 99% of the rows fit, and the comment counts the others."""
    rows = write(lambda n: {"text": text(100, 120) if n == 7 else text(), "label": "ab"[n % 2]}, count=200)
    written = draft("Classify", rows, None, str(TINY), [])
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(TINY))
    lengths = [len(tokenizer(json.loads(line)["text"])["input_ids"]) for line in Path(rows).read_text().splitlines()]
    cfg = loaded(written)
    assert cfg.max_len % 16 == 0 and 0.99 <= np.mean(np.array(lengths) <= cfg.max_len) < 1
    assert np.mean(np.array(lengths) <= cfg.max_len - 16) < 0.99
    assert f"half have up to {int(np.median(lengths))}, the longest {max(lengths)}; 1 of 200 are longer" in written
    assert "2 classes: a 100, b 100" in written and "200 rows" in written
    pairs = write(lambda n: {"sentence1": text(), "sentence2": text(), "label": "ab"[n % 2]})
    both = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    longest = max(len(tokenizer(row["sentence1"], row["sentence2"])["input_ids"]) for row in both)
    assert f"the longest {longest};" in draft("Classify", pairs, None, str(TINY), [])


def test_rows_decide_batch_and_epochs(write):
    sizes = {}
    for count in (40, 400, 4000):
        cfg = loaded(draft("Classify", write(lambda n: {"text": text(), "label": n % 2}, count=count), None, "a/b", []))
        sizes[count] = (cfg.batch, cfg.epochs)
        assert 3 <= cfg.epochs <= 20 and count * cfg.epochs / cfg.batch >= 100
    assert sizes[40][0] < sizes[400][0] < sizes[4000][0] and sizes[40][1] > sizes[4000][1] == 3


def problems(*arguments) -> list[str]:
    with pytest.raises(UserError) as error:
        draft(*arguments)
    return error.value.problems


def test_nothing_is_guessed(write):
    rows = write(lambda n: {"title": text(), "story": text(), "kind": "ab"[n % 2], "mood": "cd"[n % 2]})
    assert problems("Classify", rows, None, None, []) == [
        "--config.task.label=COLUMN is needed: several columns hold classes or 0 and 1: 'kind', 'mood'",
        "--config.task.text=COLUMN is needed: several columns hold texts: 'title', 'story'",
    ]
    found = problems("QuestionAnswering", rows, None, None, [])
    assert "no column seems to hold answers with text and answer_start for it. The columns: 'title' holds" in found[0]
    settings = [("task.label", "mood"), ("task.text", "{title}: {story}"), ("batch", "4"), ("task.drop_empty", "true")]
    written = draft("Classify", rows, None, None, settings)
    assert "# not used: 'title' (texts); 'story' (texts); 'kind' (classes)" in written
    assert f'model="{PLACEHOLDER}"' in written and "estimated without the tokenizer" in written
    Path("drafted.py").write_text(written)
    with pytest.raises(UserError, match="config.model is '<a Hugging Face directory.*neither a directory nor a hub"):
        parse(["--config=drafted.py"], CONFIG)
    cfg = loaded(written.replace(PLACEHOLDER, str(TINY)))
    assert (cfg.task.label, cfg.task.text, cfg.task.drop_empty, cfg.batch) == ("mood", "{title}: {story}", True, 4)


def test_spans_are_for_another_task(write):
    path = write(lambda n: {"text": text(), "spans": [{"start": 0, "end": 1, "label": "X"}]})
    assert problems("TokenClassification", path, None, None, []) == [
        "the data have spans of characters, which the task EntitySpans reads: jaxft new EntitySpans"
    ]


def test_small_models_learn_faster(write):
    path = write(lambda n: {"text": text(), "label": "ab"[n % 2]})
    assert loaded(draft("Classify", path, None, str(TINY), [])).lr == 5e-4
    assert loaded(draft("Classify", path, None, "a/b", [])).lr == 3e-5
    assert "This model has 1.6 million." in draft("Classify", path, None, str(TINY), [])
    assert [full_rate(count) for count in (10**7 - 1, 10**7, 5 * 10**7)] == [5e-4, 1e-4, 3e-5]


def test_mistakes_come_together(write):
    rows = write(lambda n: {"text": text(), "label": "ab"[n % 2]})
    other = write(lambda n: {"texts": text(), "label": "ab"[n % 2]}, "other.jsonl")
    found = problems("Classify", rows, None, None, [("task.txt", "x"), ("optim", "Lion"), ("batch", "0")])
    assert ["config.optim is not set here" in found[0], "Did you mean --config.task.text?" in found[1]] == [True, True]
    assert found[2] == "config.batch is 0, expected 1 or more"
    assert (
        "there is no such column. Did you mean 'text'?"
        in problems("Classify", rows, None, None, [("task.text", "txt")])[0]
    )
    assert problems("Classify", rows, other, None, []) == [
        "other.jsonl has no column 'text'. Did you mean 'texts'? Columns: texts, label"
    ]
    assert (
        "Did you mean 'Classify'? Tasks: Classify, MultiLabel"
        in problems("text-classification", rows, None, None, [])[0]
    )
    assert "Did you mean 'Regress'?" in problems("regres", rows, None, None, [])[0]
    assert "no draft: configs/superglue.py" in problems("Cloze", rows, None, None, [])[0]


def test_texts_of_the_file_cannot_break_the_code(write):
    """Names with quotes, line ends and control characters, in comments and in strings."""
    names = ['"""', "a\nimport os", "\0", "\u2028x", "tab\t'"]
    rows = write(lambda n: {"te'x\"t\\": text(), 'la\n"bel': names[n % 5]}, 'it\'s "x".jsonl')
    cfg = loaded(draft("Classify", rows, None, str(TINY), []))
    assert (cfg.task.text, cfg.task.label, cfg.data.path) == ("te'x\"t\\", 'la\n"bel', rows)


def ask(folder, *words) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "jaxft", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "XLA_FLAGS": ""}
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


def test_from_a_file_to_a_model(tmp_path):
    """As a user does it: new, then train."""
    (tmp_path / "mine.csv").write_text("\n".join(["note,kind", *(f"{text()},{'ab'[n % 2]}" for n in range(64))]))
    words = ("new", "classify", "--data=mine.csv", "--eval=mine.csv", f"--model={TINY}")
    done = ask(tmp_path, *words, "--output=mine.py")
    assert (done.returncode, done.stdout) == (0, "") and "written to mine.py" in done.stderr
    assert ask(tmp_path, *words).stdout == (tmp_path / "mine.py").read_text()
    again = ask(tmp_path, *words, "--output=mine.py")
    assert again.returncode == 2 and again.stderr == "error: --output=mine.py exists: name another file\n"
    done = ask(tmp_path, "train", "--config=mine", "--workdir=run", "--config.epochs=None", "--config.steps=4")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["split"] == "val" and (tmp_path / "run/model/config.json").is_file()


def test_what_is_missing_on_the_command_line(tmp_path):
    done = ask(tmp_path, "new")
    assert done.returncode == 2 and "\n- TASK is needed: class of the task\n- --data=FILE is needed" in done.stderr
    done = ask(tmp_path, "new", "Classify", "more", "--data=x.csv")
    assert done.returncode == 2 and "'more' is not a flag" in done.stderr
    assert ask(tmp_path, "new", "--help").stdout.startswith("usage: python -m jaxft new TASK --data=FILE [--eval=FILE]")
