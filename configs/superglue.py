"""SuperGLUE (Wang et al. 2019), one of its tasks: --config=superglue:boolq

All tasks, with the files for the benchmark's server:

    python -m jaxft.suite --suite=configs/superglue.py --workdir=runs/superglue

The data are aps/super_glue of the hub, or a copy: DIR with a folder for each task (boolq/train-*.parquet, or files of
other formats), as in --config=configs/superglue.py:boolq@DIR and --suite=configs/superglue.py:DIR.
"""

import json

from jaxft.config import Config, Eval, Save
from jaxft.data import Data
from jaxft.evaluation.leaderboard import Entry, Test, answers, class_name, jsonl
from jaxft.problems import UserError, suggest
from jaxft.tasks.classify import Classify
from jaxft.tasks.cloze import Cloze, distinct_texts
from jaxft.tasks.grouped_verification import GroupedVerification
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.template import column

TASKS = {  # name -> the task, and the metrics whose mean is the score (Wang et al., table 1)
    "boolq": (Classify(text="passage", pair="question"), ("accuracy",)),
    "cb": (Classify(text="premise", pair="hypothesis"), ("f1_macro", "accuracy")),
    "copa": (MultipleChoice(text="{premise} What was the {question}?", choices=("choice1", "choice2")), ("accuracy",)),
    "multirc": (
        GroupedVerification(text="paragraph", pair="{question} {answer}", question="{idx[paragraph]} {idx[question]}"),
        ("f1", "exact_match"),
    ),
    "record": (Cloze(id="{idx[query]}"), ("f1", "exact_match")),
    "rte": (Classify(text="premise", pair="hypothesis"), ("accuracy",)),
    "wic": (Classify(text="{word}: {sentence1}", pair="{word}: {sentence2}"), ("accuracy",)),
    "wsc": (Classify(text="text", pair="{span2_text} is {span1_text}"), ("accuracy",)),
}
MAX_LEN = {"boolq": 256, "cb": 256, "multirc": 512, "record": 512}  # tokens; 128 for other tasks


def get_config(name: str) -> Config:
    """`name` is TASK, or TASK@DIR. Rate, batch, epochs and the choice of the best: Wang et al., section 4.1."""
    name, _, directory = name.partition("@")
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}, only {', '.join(TASKS)}.{suggest(name, TASKS)}")
    task, metrics = TASKS[name]
    return Config(
        model="google-bert/bert-large-cased",
        task=task,
        data=source(directory, name, "train"),
        evals={"validation": Eval(data=source(directory, name, "validation"))},
        lr=1e-5,
        batch=4,
        epochs=10,
        max_len=MAX_LEN.get(name, 128),
        save=Save(best=f"validation/{metrics[0]}"),
    )


def source(directory: str, task: str, split: str) -> Data:
    """The rows of a split, from the hub or from files of the directory."""
    if not directory:
        return Data(path="aps/super_glue", name=task, split=split)
    return Data(path=f"{directory}/{task}/{split}[-.]*")


def get_entries(directory: str = "") -> dict[str, Entry]:
    """The tasks of the leaderboard; the model of RTE answers both diagnostic sets."""

    def entry(task, file, lines):
        test = Test(f"{file}.jsonl", source(directory, task, "test"), lines)
        return Entry(tuple(f"validation/{metric}" for metric in TASKS[task][1]), (test,))

    def diagnostic(task, file, *columns):
        test = Test(f"{file}.jsonl", source(directory, task, "test"), jsonl(columns, class_name))
        return Entry(tests=(test,), of="rte")

    def texts(task):
        return TASKS[task][0].text, TASKS[task][0].pair

    copa = TASKS["copa"][0]
    return {
        "boolq": entry("boolq", "BoolQ", jsonl(texts("boolq"), small)),
        "cb": entry("cb", "CB", jsonl(texts("cb"), class_name)),
        "copa": entry("copa", "COPA", jsonl((copa.text, *copa.choices), lambda model, answer: answer["choice"])),
        "multirc": entry("multirc", "MultiRC", passages),
        "record": entry("record", "ReCoRD", names),
        "rte": entry("rte", "RTE", jsonl(texts("rte"), class_name)),
        "wic": entry("wic", "WiC", jsonl(texts("wic"), small)),
        "wsc": entry("wsc", "WSC", jsonl(texts("wsc"), class_name)),
        "axb": diagnostic("axb", "AX-b", "sentence1", "sentence2"),
        "axg": diagnostic("axg", "AX-g", "premise", "hypothesis"),
    }


def small(model, answer) -> str:
    """true or false."""
    return answer["label"].lower()


def passages(model, rows):
    """A line for each passage of MultiRC, with its questions and their answers."""
    task, found = TASKS["multirc"][0], {}
    for row, answer in zip(rows, answers(model, rows, (task.text, task.pair)), strict=True):
        number = row["idx"]
        one = {"idx": number["answer"], "label": int(answer["label"] == "True")}
        found.setdefault(number["paragraph"], {}).setdefault(number["question"], []).append(one)
    for passage, questions in found.items():
        inside = [{"idx": number, "answers": some} for number, some in questions.items()]
        yield json.dumps({"idx": passage, "passage": {"questions": inside}})


def names(model, rows):
    """A line for each question of ReCoRD, with the most probable name of its passage."""
    task = TASKS["record"][0]
    passage, query = column(rows, task.text), column(rows, task.query)
    for row, text, question in zip(rows, passage, query, strict=True):
        known = distinct_texts(row[task.names], task.names)
        asked = [(text, question.replace(task.gap, name)) for name in known]
        right = [(-1) ** (answer["label"] != "right") * answer["score"] for answer in model.predict(asked)]
        yield json.dumps({"idx": row["idx"]["query"], "label": known[right.index(max(right))]}, ensure_ascii=False)
