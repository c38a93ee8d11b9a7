"""What a label cell means: no label, a name, a number, several names or a multi-hot vector, in all forms of files."""

import time

import numpy as np
import pytest
from conftest import rows_of
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.class_weight import compute_class_weight

from jaxft.attribution import settings
from jaxft.config.ranges import problems_of
from jaxft.data import Data
from jaxft.data.encoded import encode_all
from jaxft.models.checkpoint.sentence_transformers import read_embedding
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.contrastive_embedding import Similarity
from jaxft.tasks.grouped_verification import GroupedVerification
from jaxft.tasks.labels import ROUNDED, STRIPPED
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.token_classification import TokenClassification


@pytest.fixture
def setting(bert_tokenizer):
    return EncodingContext(bert_tokenizer, 32)


def labelled(cells, **more):
    return [{"text": "a cat", "label": cell, **more} for cell in cells]


def read(task, rows, setting):
    """(the settled task, its examples) of rows, or of a source."""
    rows = rows_of(rows) if isinstance(rows, list) else rows
    task = task.prepare(rows, setting)
    return task, encode_all(rows.named(), lambda some: task.encode(some, setting))


def refused(task, rows, setting) -> str:
    with pytest.raises(UserError) as caught:
        read(task, rows, setting)
    return str(caught.value)


NONE = [None, "", " \t", float("nan"), -1, -100, "-1", "-100", -1.0, "-100.0"]


@pytest.mark.parametrize("task", [Classify(), GroupedVerification(question="text")], ids=["classify", "verify"])
def test_no_label(task, setting, caplog):
    with caplog.at_level("INFO", "jaxft"):
        task, found = read(task, labelled(["pos", *NONE, "neg"]), setting)
    assert task.labels == ("neg", "pos") and found.flat["targets"].tolist() == [1, 0]
    assert found.report.dropped == {"no label": len(NONE)}
    assert "-1 in 2 rows stands for a missing label" in caplog.text and "-100 in 2 rows" in caplog.text


def test_a_csv_file_without_some_labels(setting, tmp_path):
    file = tmp_path / "half.csv"
    file.write_text("text,label\na,pos\nb,\nc,neg \nd, neg\n")
    task, found = read(Classify(), Data(path=str(file)).open(), setting)
    assert task.labels == ("neg", "pos") and found.flat["targets"].tolist() == [1, 0, 0]
    assert found.report.dropped == {"no label": 1} and found.report.notes == {STRIPPED: 2}


def test_a_class_that_is_called_as_no_label_is(setting):
    task, found = read(Classify(labels=("-1", "1")), labelled([1, -1, "-1", -1.0, None]), setting)
    assert found.flat["targets"].tolist() == [1, 0, 0, 0] and found.report.dropped == {"no label": 1}
    named = EncodingContext(setting.tokenizer, 32, labels=["-1", "0", "1"])  # the checkpoint's
    assert read(Classify(), labelled([1, -1, 0]), named)[1].flat["targets"].tolist() == [2, 0, 1]
    said = refused(Classify(), labelled([1, -1, 1]), setting)
    assert (
        "one class, '1', and -1, which stands for a missing label" in said and "config.task.labels=('-1', '1')" in said
    )
    rows = rows_of(labelled([0, 1]), {"label": ["-1", "1"]})
    assert read(Classify(), rows, setting)[0].labels == ("-1", "1")


def test_whole_numbers_with_a_point(setting):
    """As pandas writes a column of class numbers with gaps."""
    for cells in (["1.0", "0.0", ""], [1.0, 0.0, float("nan")]):
        task, found = read(Classify(), labelled(cells), setting)
        assert task.labels == ("0", "1") and found.flat["targets"].tolist() == [1, 0]
        assert found.report.notes == {ROUNDED: 2}
    given = Classify(labels=("0", "1"))
    assert [example["targets"].tolist() for example in given.encode(labelled([1.0, "0"]), setting)] == [[1], [0]]
    assert "decimals such as 1.0: for regression" in refused(Classify(), labelled(["1.0", "2.5"]), setting)
    versions = Classify(labels=("1.0", "1"))  # names as they are come first
    assert read(versions, labelled(["1", "1.0"]), setting)[1].flat["targets"].tolist() == [1, 0]


def test_names_of_a_checkpoint_and_of_a_feature_with_white_space(setting):
    named = EncodingContext(setting.tokenizer, 32, labels=["pos ", "neg"])
    task, found = read(Classify(), labelled(["neg", "pos", "pos "]), named)
    assert task.labels == ("pos ", "neg") and found.flat["targets"].tolist() == [1, 0, 0]
    task, found = read(Classify(), rows_of(labelled([1, 0, -1]), {"label": ["b ", "a"]}), setting)
    assert task.labels == ("b ", "a") and found.flat["targets"].tolist() == [1, 0]


def test_balanced_weights(setting):
    """Those of scikit-learn over the classes that there are; a class without a row has none."""
    cells = ["a", "b", "b", "c", "b", None, "", "a", "b"]
    there = [cell for cell in cells if cell]
    wanted = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=there)
    task, _ = read(Classify(class_weights="balanced", labels=("a", "absent", "b", "c")), labelled(cells), setting)
    np.testing.assert_allclose(task.class_weights, np.insert(wanted, 1, 0.0), rtol=1e-12)


def test_no_number_in_regression_and_similarity(setting, tiny_bert):
    cells = [0.5, None, "", " ", float("nan"), -1, "-0.25"]
    _, found = read(Regress(), labelled(cells), setting)
    assert found.flat["targets"].tolist() == [0.5, -1, -0.25]  # -1 is a number like others
    rows = [{"a": "a cat", "b": "the cat", "s": cell} for cell in cells]
    setting.embedding = read_embedding(tiny_bert)
    _, scored = read(Similarity(text="a", pair="b", label="s"), rows, setting)
    assert scored.flat["targets"][::2].tolist() == [0.5, -1, -0.25]
    assert found.report.dropped == scored.report.dropped == {"no label": 4}


# --- choices ---

OWN = {"text": ["a", "b", "c", "d"], "label": ["1", "2", "3", "4"]}


def right(task, rows, setting):
    return [example["targets"].argmax() for example in map(found_of(read(task, rows, setting)[1]), range(len(rows)))]


def found_of(encoded):
    return lambda number: encoded[number]


def test_choices_by_their_own_labels(setting):
    letters = {"text": OWN["text"], "label": ["A", "B", "C", "D"]}
    rows = [{"question": "q", "choices": OWN, "label": key} for key in ("1", 2, "3", 4.0, " 4")]
    rows += [{"question": "q", "choices": letters, "label": "B"}]
    assert right(MultipleChoice(), rows, setting) == [0, 1, 2, 3, 3, 1]
    said = refused(MultipleChoice(), [rows[0] | {"label": "0"}], setting)
    assert "holds '0', but there are 4 choices: expected 1, 2, 3, 4" in said
    assert "expected A, B, C, D" in refused(MultipleChoice(), [rows[5] | {"label": 1}], setting)


def test_choices_that_are_numbered_from_1(setting, caplog):
    """Winogrande: option1 and option2, of which the answer is 1 or 2."""
    rows = [{"question": "q", "option1": "a", "option2": "b", "label": key} for key in ("1", "2", "1", "-1")]
    task = MultipleChoice(choices=("option1", "option2"))
    with caplog.at_level("INFO", "jaxft"):
        settled, found = read(task, rows, setting)
    assert settled.first == 1 and "numbers the choices from 1" in caplog.text
    assert [int(found[i]["targets"].argmax()) for i in range(3)] == [0, 1, 0]
    assert found.report.dropped == {"no label": 1}
    assert right(task, [row | {"label": key} for row, key in zip(rows, (0, 1, 1, 0), strict=True)], setting) == [
        0,
        1,
        1,
        0,
    ]
    lists = [{"question": "q", "choices": ["a", "b", "c"], "label": key} for key in (1, 2, 1)]
    assert right(MultipleChoice(), lists, setting) == [1, 2, 1] and "never holds 0" in caplog.text
    assert right(MultipleChoice(first=1), lists, setting) == [0, 1, 0]
    assert "expected a number from 0 to 2" in refused(
        MultipleChoice(), [lists[0] | {"label": key} for key in (0, 3)], setting
    )
    assert problems_of(MultipleChoice(first=2)) == ["first is 2, expected from 0 to 1, or None"]


def test_tags_without_a_label(setting):
    rows = [
        {"tokens": ["a", "b", "c"], "ner_tags": [0, 3, -100]},
        {"tokens": ["d", "e"], "ner_tags": [-1, "0 "]},
        {"tokens": "['f', 'g']", "ner_tags": "[3 0]"},  # as csv has lists
        {"tokens": ["h"], "ner_tags": None},
    ]
    task, found = read(TokenClassification(), rows, setting)
    assert task.labels == ("0", "3")
    assert [found[i]["targets"][:, 0].tolist() for i in range(3)] == [[0, 1], [0], [1, 0]]
    assert found.report.dropped == {"no tag": 1} and found.report.notes["words without a tag"] == 2


# --- several labels ---

HOT = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]]
FORMS = {
    "numbers": lambda row: row,
    "truth values": lambda row: [bool(x) for x in row],
    "decimals": lambda row: [float(x) for x in row],
    "as pandas writes it": str,
    "as numpy writes it": lambda row: str(np.array(row, float)),
}


def several(cells):
    return [{"text": "a cat", "labels": cell} for cell in cells]


@pytest.mark.parametrize("form", FORMS)
def test_multi_hot_vectors(form, setting):
    rows = several(
        [FORMS[form](row) for row in HOT] + [None, FORMS[form]([-1, -1, -1]) if form != "truth values" else [None] * 3]
    )
    task, found = read(MultiLabel(), rows, setting)
    assert task.labels == ("0", "1", "2") and task.multi_hot
    assert found.flat["targets"].tolist() == HOT and found.report.dropped == {"no label": 2}
    assert found.report.notes == {"texts to which no label applies": 1}
    named = MultiLabel(labels=("joy", "fear", "awe"))
    assert read(named, rows, setting)[1].flat["targets"].tolist() == HOT
    # Without training data: by the number of labels, as those of a checkpoint.
    assert [example["targets"][0].tolist() for example in named.encode(rows[:4], setting)] == HOT
    said = refused(MultiLabel(labels=("joy", "fear")), rows, setting)
    assert "expected a multi-hot vector of 2 numbers, 0 or 1 for each label" in said and "row 4" in said


def test_lists_of_class_numbers_are_no_vectors(setting):
    numbers = [[0, 1], [2], [1, 2], [0], []]
    task, found = read(MultiLabel(), several(numbers), setting)
    wanted = MultiLabelBinarizer().fit_transform(numbers)
    assert task.labels == ("0", "1", "2") and found.flat["targets"].tolist() == wanted.tolist()
    assert read(task, several([[0, 1]]), setting)[1].flat["targets"].tolist() == [[1, 1, 0]]


def test_vectors_of_two_labels(setting, caplog):
    rows = several([[0, 1], [1, 0]])
    with caplog.at_level("INFO", "jaxft"):
        task, found = read(MultiLabel(), rows, setting)
    assert found.flat["targets"].tolist() == [[0, 1], [1, 0]] and "multi_hot=False" in caplog.text
    found = read(MultiLabel(multi_hot=False), rows, setting)[1]
    assert found.flat["targets"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("other", [["joy", "fear"], [1, 0], [2], [0, 1, 1, 1]])
def test_vectors_beside_other_lists(other, setting):
    said = refused(MultiLabel(), several([[1, 0, 0], other]), setting)
    assert "holds [1, 0, 0], a multi-hot vector (0 or 1 for each label), and " in said and str(other) in said


def test_names_as_pandas_writes_lists(setting):
    cells = ["['joy', 'fear']", "['fear' 'awe']", '["joy"]', "joy|awe", "[]", "[odd]"]
    task, found = read(MultiLabel(), several(cells), setting)
    assert task.labels == ("[odd]", "awe", "fear", "joy")
    names = [["joy", "fear"], ["fear", "awe"], ["joy"], ["joy", "awe"], [], ["[odd]"]]
    assert found.flat["targets"].tolist() == MultiLabelBinarizer().fit_transform(names).tolist()


def test_a_column_for_each_label(setting, tmp_path):
    """As the toxic comments of Jigsaw, whose unscored rows have -1."""
    file = tmp_path / "toxic.csv"
    file.write_text("text,toxic,threat\na,1,0\nb,0,FALSE\nc,1.0,TRUE\nd,-1,-1\ne,,1\n")
    task = MultiLabel(label=("toxic", "threat"))
    assert task.columns() == ["text", "toxic", "threat"]
    settled, found = read(task, Data(path=str(file)).open(), setting)
    assert settled.labels == ("toxic", "threat") and found.flat["targets"].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert found.report.dropped == {"no label": 2}
    file.write_text("text,toxic,threat\na,1,0\nb,0,maybe\n")
    assert "row 2: column 'threat' holds 'maybe', expected 0 or 1" in refused(
        task, Data(path=str(file)).open(), setting
    )
    named = MultiLabel(label="both", labels=("toxic", "threat"))
    vectors = rows_of([{"text": "a", "both": [1, 0]}, {"text": "b", "both": [0, 0]}, {"text": "c", "both": "[1, 1]"}])
    settled, found = read(named, vectors, setting)
    assert settled.labels == ("toxic", "threat") and found.flat["targets"].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert MultiLabel(label=()).problems() and MultiLabel(label=("a", "b"), labels=("b", "a")).problems()


SPELLED = {
    "[1, 0]": [1, 0],
    " [1. 0.5]": [1.0, 0.5],
    "['it\\'s' \"a\"]": ["it's", "a"],
    "[nan, None, True]": [None, None, True],
    "[007]": [7],
}


@pytest.mark.parametrize("text", SPELLED)
def test_spelled_lists(text):
    assert list_of(text) == SPELLED[text]


@pytest.mark.parametrize(
    "text", ["[UNK]", "[a]|[b]", "[1, 2", "[1][2]", "[[1]]", "['a''b']", "[1_000]", "[2 x]", "['\\d']", None, 3]
)
def test_what_spells_no_list(text):
    assert list_of(text) is None


# --- many rows ---


def test_equal_problems_are_said_once(setting):
    cells = ["negative"] * 43 + ["pos"] * 5000 + ["poss"] * 2 + ["neg"]
    rows = rows_of(labelled(cells))
    task = Classify(labels=("neg", "pos"))
    with pytest.raises(UserError) as caught:
        encode_all(rows, lambda some: task.encode(some, setting), name=rows.name)
    assert caught.value.problems == [
        "rows, 43 rows, first 1: label 'negative' is not among the training labels: neg, pos.",
        "rows, 2 rows, first 5044: label 'poss' is not among the training labels: neg, pos. Did you mean 'pos'?",
    ]


@pytest.mark.parametrize("task", [Classify, MultiLabel], ids=["class", "several"])
def test_the_wrong_column(task, setting):
    """A hundred thousand texts for labels: an answer in seconds, and a short one."""
    rows = rows_of([{"text": "a", "label": f"text {i} " + "long " * 20} for i in range(100_000)])
    begun = time.perf_counter()
    said = refused(task(label="label"), rows, setting)
    assert "holds 100,000 classes in 100,000 rows" in said and "config.task.label" in said and len(said) < 500
    known = task(label="label", labels=tuple(f"text {i} " for i in range(50_000)))
    with pytest.raises(UserError) as caught:
        encode_all(rows, lambda some: known.encode(some, setting), name=rows.name)
    assert len(str(caught.value)) < 4000 and "99,990 more problems like these" in str(caught.value)
    assert time.perf_counter() - begun < 20


def test_many_classes_that_are_known(setting):
    """A few rows of a data set that names its classes, and one with two rows of each."""
    names = [f"class {number}" for number in range(150)]
    rows = rows_of(labelled([number % 60 for number in range(80)]), {"label": names})
    assert read(Classify(), rows, setting)[0].labels == tuple(names)
    assert len(read(Classify(), labelled(names * 2), setting)[0].labels) == 150
    assert "holds 150 classes in 150 rows" in refused(Classify(), labelled(names), setting)
    assert len(read(Classify(labels=tuple(names)), labelled(names), setting)[0].labels) == 150
    assert len(read(Classify(), labelled(names), EncodingContext(setting.tokenizer, 32, labels=names))[0].labels) == 150


def test_the_target_of_an_explanation(tiny_classifier, one_device):
    import jaxft

    model = jaxft.load(str(tiny_classifier))
    for target in ("pos", " pos"):
        assert settings.check(model, "occlusion", target, None, None, 1, 1).number == 2
