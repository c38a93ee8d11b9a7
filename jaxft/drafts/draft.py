"""A commented configuration for a file of data."""

import dataclasses
import textwrap
from typing import Any

from jaxft.config import Config
from jaxft.config.choices import blank, names_of
from jaxft.config.config_dict import MODULE_OF, component_class
from jaxft.config.other_trainers import TASKS
from jaxft.config.overrides import override
from jaxft.config.ranges import range_problems
from jaxft.data.example import Row
from jaxft.data.source import Data
from jaxft.drafts.columns import Column, columns_of_rows
from jaxft.drafts.inputs import model_inputs
from jaxft.drafts.roles import ROLES, Assignment, assign
from jaxft.drafts.sizes import Lengths, batch_of, epochs_of, parameters_of, text_lengths
from jaxft.problems import UserError, clipped, listed, raise_problems, suggest
from jaxft.tune.learning_rate import full_rate

LOOKED_AT = 5000  # rows, evenly spaced
PLACEHOLDER = "<a Hugging Face directory, or a name on the hub>"
SETTABLE = ("task", "data", "lr", "batch", "epochs", "max_len")
WIDTH = 110  # of a line
WINDOW = 384  # tokens of a question and a part of its context, as BERT had on SQuAD
SHOWN = 8  # classes in a comment


def task_named(name: str) -> str:
    """The name of a task that `new` knows, from the same name in other spelling: token-classification."""
    folded = {known.casefold(): known for known in names_of("task")}
    found = folded.get(name.casefold().replace("-", "").replace("_", ""))
    if found is None:
        other = TASKS.get(name.casefold().replace("_", "-"))
        close = f" Did you mean {other!r}?" if other else suggest(name.replace("-", "").replace("_", ""), ROLES)
        raise UserError(f"there is no task {clipped(name)!r}.{close} Tasks: {', '.join(ROLES)}")
    if found not in ROLES:
        raise UserError(f"{found} has no draft: configs/superglue.py has examples of it. Tasks: {', '.join(ROLES)}")
    return found


def draft(task: str, path: str, test: str | None, model: str | None, settings: list[tuple[str, str]]) -> str:
    """The text of a configuration of a task for the file at `path`, evaluated on the file `test`.

    `settings` are fields (SETTABLE) that are not to be chosen here. Raises UserError with all that is not clear.
    """
    root, problems = _given(task_named(task), path, settings)
    raise_problems(problems)
    task = type(root.task).__name__
    rows = root.data.open().named()
    step = max(1, len(rows) // LOOKED_AT)
    looked_at = [rows[number] for number in range(0, len(rows), step)]
    columns = columns_of_rows(looked_at, rows.columns)
    named = {name: getattr(root.task, name) for name in _set_in("task", settings)}
    roles = {role.name for role in ROLES[task]}
    found = assign(task, columns, {name: value for name, value in named.items() if name in roles})
    raise_problems(found.problems + _lacking(test, found))
    return _text(root, settings, found, columns, looked_at, len(rows), test, model)


def _given(task: str, path: str, settings: list[tuple[str, str]]) -> tuple[Any, list[str]]:
    """A configuration with what the user set, and what is wrong with that."""
    root = blank(Config)
    root.task, root.data = blank(component_class(task, "config.task")), Data(path=path)
    fixed = [name for name, _ in settings if name.split(".")[0] not in SETTABLE or name in ("task", "data")]
    problems = [
        f"--config.{name} is not set here, only fields of task and data, lr, batch, epochs and max_len: "
        "set it in the file that is written"
        for name in fixed
    ]
    problems += override(root, [one for one in settings if one[0] not in fixed])
    return root, problems + [f"config.{text}" for text in range_problems(root)]


def _set_in(component: str, settings: list[tuple[str, str]]) -> list[str]:
    """The fields of a component that the user set."""
    return [field for name, _ in settings for first, _, field in [name.partition(".")] if first == component]


def _lacking(test: str | None, found: Assignment) -> list[str]:
    """Columns that the evaluation set does not have."""
    if test is None:
        return []
    rows = Data(path=test).open()
    return [
        f"{test} has no column {name!r}.{suggest(name, rows.columns)} Columns: {listed(rows.columns)}"
        for name in found.names()
        if name not in rows.columns and "{" not in name
    ]


def _text(
    root: Any,
    settings: list[tuple[str, str]],
    found: Assignment,
    columns: dict[str, Column],
    rows: list[Row],
    count: int,
    test: str | None,
    model: str | None,
) -> str:
    """The file."""
    task = type(root.task).__name__
    lengths = text_lengths(model_inputs(task, rows, found.columns), model)
    chosen = {name for name, _ in settings}
    max_len = root.max_len if "max_len" in chosen else _max_len(task, lengths)
    if task == "QuestionAnswering" and "task.stride" not in chosen:
        found.take("stride", min(root.task.stride, max_len // 4), "tokens that neighbouring windows share")
    if task == "Similarity" and "task.most" not in chosen and found.columns["label"] in columns:
        most = max(abs(float(value)) for value in columns[found.columns["label"]].values)
        found.take("most", max(1.0, most), "the label of texts of equal meaning: the largest in the data")
    batch = root.batch if "batch" in chosen else batch_of(count)
    body = [
        *_field("model", model or PLACEHOLDER, "" if model else "TO FILL IN: new was not given a --model"),
        *_task(root.task, found, columns, settings),
        *_unused(found, columns),
        f"data={_call(root.data)},  # {count:,} rows",
        *_evals(test),
        *_lr(root, "lr" in chosen, model),
        *_field("batch", batch, "rows per update"),
        *_epochs(root, "epochs" in chosen, count, batch),
        *_field("max_len", max_len, lengths.described(max_len)),
    ]
    imports = [f"from {MODULE_OF[task]} import {task}"]
    head = f'"""{task}: a first configuration, from what `jaxft new` saw in the data.'
    return "\n".join(
        [
            *(head, "", "    jaxft train --config=THIS_FILE.py --workdir=runs/first", '"""', ""),
            *("from jaxft.config import Config, Eval", "from jaxft.data import Data", *imports, "", ""),
            *("def get_config() -> Config:", "    return Config("),
            *(f"        {line}" for line in body),
            "    )\n",
        ]
    )


def _field(name: str, value: Any, comment: str = "") -> list[str]:
    return [*_comment(comment), f"{name}={_literal(value)},"]


def _literal(value: Any) -> str:
    """A value as code; a text in double quotes, if it needs no escapes."""
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set('"\\')
    return f'"{value}"' if plain else repr(value)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _call(value: Any) -> str:
    """A component as code, with the fields that differ from their defaults."""
    plain = blank(type(value))
    changed = [f.name for f in dataclasses.fields(value) if getattr(value, f.name) != getattr(plain, f.name)]
    return f"{type(value).__name__}({', '.join(f'{name}={_literal(getattr(value, name))}' for name in changed)})"


def _task(task: Any, found: Assignment, columns: dict[str, Column], settings: list[tuple[str, str]]) -> list[str]:
    lines = [f"task={type(task).__name__}("]
    for name, value in found.columns.items():
        seen = [_classes(columns[value])] if isinstance(value, str) and name in ("label", "tags") else []
        shown = (value,) if name == "choices" and isinstance(value, str) else value
        lines += [f"    {line}" for line in _field(name, shown, "; ".join([found.reasons[name], *filter(None, seen)]))]
    for name in dict.fromkeys(_set_in("task", settings)):
        if name not in found.columns and "." not in name:
            lines += [f"    {line}" for line in _field(name, getattr(task, name), "as given")]
    return [*lines, "),"]


def _classes(column: Column) -> str:
    """The classes of a column with their numbers of rows, the range of its numbers, or ""."""
    missing = f"; {column.missing:,} without one are left out" if column.missing else ""
    if {"class", "binary"} & set(column.kinds):
        counts = column.counts()
        names = {name: clipped(name if name.isprintable() else repr(name), 30) for name in counts}
        some = ", ".join(f"{names[name]} {number:,}" for name, number in counts.most_common(SHOWN))
        return f"{len(counts)} classes: {some}{', ...' if len(counts) > SHOWN else ''}{missing}"
    if "number" in column.kinds:
        numbers = [float(value) for value in column.values]
        return f"from {min(numbers):g} to {max(numbers):g}{missing}"
    return missing.removeprefix("; ")


def _unused(found: Assignment, columns: dict[str, Column]) -> list[str]:
    rest = found.free(columns, {kind for column in columns.values() for kind in column.kinds})
    return _comment("not used: " + "; ".join(f"{name!r} ({columns[name].holds})" for name in rest)) if rest else []


def _evals(test: str | None) -> list[str]:
    if test is not None:
        return [f'evals={{"val": Eval(data=Data(path={_literal(test)}))}},']
    return [
        *_comment("Without an evaluation set, nothing says how good the model is on other rows:"),
        '# evals={"val": Eval(data=Data(path="OTHER_FILE"))},',
    ]


def _lr(root: Any, given: bool, model: str | None) -> list[str]:
    count = parameters_of(model)
    size = "" if count is None else f" This model has {count / 1e6:,.1f} million."
    lr = root.lr if given else full_rate(count)
    return _field("lr", lr, f"usual: 1e-5 to 5e-5, and more for models of fewer than 50 million parameters.{size}")


def _epochs(root: Any, given: bool, count: int, batch: int) -> list[str]:
    epochs = root.epochs if given else epochs_of(count, batch)
    return _field("epochs", epochs, f"{int(epochs * count) // batch:,} updates")


def _max_len(task: str, lengths: Lengths) -> int:
    """That of the longest row for tasks which lose words or answers by cutting; longer contexts are read in windows."""
    if task == "QuestionAnswering":
        return min(WINDOW, lengths.max_len(1.0))
    return lengths.max_len(1.0 if task == "TokenClassification" else 0.99)
