"""What a classifier is worth: the accuracy of one that gives every text the same class."""

import logging
import operator
from pathlib import Path

from jaxft.host import strict_json
from jaxft.problems import truncated_repr
from jaxft.reports.facts import target_stats

log = logging.getLogger("jaxft")


def baseline(name: str, task, encoded, workdir: str | None) -> dict[str, float]:
    """baseline_accuracy, on the set `name`, of always the commonest class of the training data.

    How common the classes are in training stands in the work directory. Where it does not, the commonest class of the
    set itself is taken, and the key is baseline_accuracy_own_labels. {} for tasks without one class a text.
    """
    if task.problem_type != "single_label_classification":
        return {}
    here, training = target_stats(task, encoded), training_tally(workdir)
    if not here:  # the classes are of something else than a text's
        return {}
    counts = training or here
    commonest = max(counts, key=counts.get)  # of equals the first
    accuracy = here.get(commonest, 0) / sum(here.values())
    where = "the training data" if training else f"{name} itself, as the training data are not known"
    log.info(
        "%s: always %s, the commonest class of %s, has accuracy %.4f", name, truncated_repr(commonest), where, accuracy
    )
    return {"baseline_accuracy" if training else "baseline_accuracy_own_labels": accuracy}


def training_tally(workdir: str | None) -> dict[str, int] | None:
    """How many training examples each class has; None where no work directory says so."""
    file = Path(workdir or "", "summary.json")
    if workdir is None or not file.is_file():
        return None
    try:
        counts = strict_json.parse(file.read_bytes()).get("targets", {}).get("train") or None
        return counts if counts is None else {str(name): operator.index(count) for name, count in counts.items()}
    except (ValueError, TypeError, AttributeError):  # no JSON, or of another shape
        log.warning("%s is damaged: how common the classes are in training is not known", file)
        return None
