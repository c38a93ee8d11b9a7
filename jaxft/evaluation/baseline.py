"""The baseline of a classifier: the accuracy of always predicting the most common class."""

import logging
import operator
from pathlib import Path

from jaxft.data.encoded import Encoded
from jaxft.host import strict_json
from jaxft.problems import truncated_repr
from jaxft.tasks.base import Task
from jaxft.training.facts import target_stats

log = logging.getLogger("jaxft")


def baseline(name: str, task: Task, encoded: Encoded, workdir: str | None) -> dict[str, float]:
    """`baseline_accuracy` on the set `name` of always predicting the most common class of the training data.

    The work directory has the counts of training. Without them the most common class of the set itself is predicted,
    and the key is `baseline_accuracy_own_labels`. {} for tasks other than single-label classification.
    """
    if task.problem_type != "single_label_classification":
        return {}
    here, training = target_stats(task, encoded), training_counts(workdir)
    if not here:  # the classes are not those of texts
        return {}
    counts = training or here
    commonest = max(counts, key=lambda label: counts[label])  # the first of equal ones
    accuracy = here.get(commonest, 0) / sum(here.values())
    where = "the training data" if training else f"{name} itself, as the training data are not known"
    log.info(
        "%s: always %s, the commonest class of %s, has accuracy %.4f", name, truncated_repr(commonest), where, accuracy
    )
    return {"baseline_accuracy" if training else "baseline_accuracy_own_labels": accuracy}


def training_counts(workdir: str | None) -> dict[str, int] | None:
    """Class -> number of training examples; None if no work directory has these counts."""
    file = Path(workdir or "", "summary.json")
    if workdir is None or not file.is_file():
        return None
    try:
        counts = strict_json.parse(file.read_bytes()).get("targets", {}).get("train") or None
        return counts if counts is None else {str(name): operator.index(count) for name, count in counts.items()}
    except (ValueError, TypeError, AttributeError):  # not JSON, or of another structure
        log.warning("%s is damaged: how common the classes are in training is not known", file)
        return None
