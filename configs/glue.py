"""GLUE (Wang et al. 2019), one of its tasks: --config=glue:cola

All tasks, with the files for the benchmark's server: python -m jaxft.suite --suite=configs/glue.py --workdir=runs/glue

The data are nyu-mll/glue of the hub, or a copy: DIR with a folder for each task (cola/train-*.parquet, or files of
other formats), as in --config=configs/glue.py:cola@DIR and --suite=configs/glue.py:DIR.
"""

from jaxft.config import Config, Eval
from jaxft.data import Data
from jaxft.evaluation.leaderboard import Entry, Test, class_name, class_number, tsv
from jaxft.problems import UserError, suggest
from jaxft.tasks.classify import Classify, Regress

VALIDATION = {"validation": "validation"}
TASKS = {  # name -> the task, and its evaluation sets: name -> split
    "cola": (Classify(text="sentence"), VALIDATION),
    "sst2": (Classify(text="sentence"), VALIDATION),
    "mrpc": (Classify(text="sentence1", pair="sentence2"), VALIDATION),
    "stsb": (Regress(text="sentence1", pair="sentence2"), VALIDATION),
    "qqp": (Classify(text="question1", pair="question2"), VALIDATION),
    "mnli": (
        Classify(text="premise", pair="hypothesis"),
        {"matched": "validation_matched", "mismatched": "validation_mismatched"},
    ),
    "qnli": (Classify(text="question", pair="sentence"), VALIDATION),
    "rte": (Classify(text="sentence1", pair="sentence2"), VALIDATION),
    "wnli": (Classify(text="sentence1", pair="sentence2"), VALIDATION),
}


def get_config(name: str) -> Config:
    """`name` is TASK, or TASK@DIR. The other settings are those of BERT (Devlin et al. 2018, appendix A.3)."""
    name, _, directory = name.partition("@")
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}, only {', '.join(TASKS)}.{suggest(name, TASKS)}")
    task, sets = TASKS[name]
    return Config(
        model="google-bert/bert-base-uncased",
        task=task,
        data=source(directory, name, "train"),
        evals={key: Eval(data=source(directory, name, split)) for key, split in sets.items()},
        lr=2e-5,
        batch=32,
        epochs=3,
        max_len=128,
    )


def source(directory: str, task: str, split: str) -> Data:
    """The rows of a split, from the hub or from files of the directory."""
    if not directory:
        return Data(path="nyu-mll/glue", name=task, split=split)
    return Data(path=f"{directory}/{task}/{split}[-.]*")


def similarity(model, answer) -> str:
    """The value, limited to the scale of the data, from 0 to 5."""
    return f"{min(max(answer['value'], 0.0), 5.0):.3f}"


def get_entries(directory: str = "") -> dict[str, Entry]:
    """The tasks of the leaderboard (Wang et al. 2019, table 1); the model of MNLI answers AX."""

    def tests(task, value, columns=None, **files):
        what = TASKS[task][0] if task in TASKS else None
        columns = columns or tuple(column for column in (what.text, what.pair) if column)
        lines = tsv(columns, value)
        return tuple(Test(f"{file}.tsv", source(directory, task, split), lines) for split, file in files.items())

    def plain(*metrics):
        return tuple(f"validation/{metric}" for metric in metrics)

    return {
        "cola": Entry(plain("matthews_correlation"), tests("cola", class_number, test="CoLA")),
        "sst2": Entry(plain("accuracy"), tests("sst2", class_number, test="SST-2")),
        "mrpc": Entry(plain("f1", "accuracy"), tests("mrpc", class_number, test="MRPC")),
        "stsb": Entry(plain("pearson", "spearmanr"), tests("stsb", similarity, test="STS-B")),
        "qqp": Entry(plain("f1", "accuracy"), tests("qqp", class_number, test="QQP")),
        "mnli": Entry(
            ("matched/accuracy", "mismatched/accuracy"),
            tests("mnli", class_name, test_matched="MNLI-m", test_mismatched="MNLI-mm"),
        ),
        "qnli": Entry(plain("accuracy"), tests("qnli", class_name, test="QNLI")),
        "rte": Entry(plain("accuracy"), tests("rte", class_name, test="RTE")),
        "wnli": Entry(plain("accuracy"), tests("wnli", class_number, test="WNLI")),
        "ax": Entry(tests=tests("ax", class_name, ("premise", "hypothesis"), test="AX"), of="mnli"),
    }
