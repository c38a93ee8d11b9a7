"""What data preparation reports of a set: what became of its rows, and how many tokens there are."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataReport:
    """Counts of a set. report.html shows them, the log has them in a line, and `Task.check_data` judges them."""

    rows: int  # of the source
    kept: int  # rows that gave an example or more
    tokens: int  # of all examples
    truncated: int = 0  # examples that lost tokens
    empty: int = 0  # examples that hold special tokens only
    dropped: dict[str, int] = field(default_factory=dict)  # rows without an example: reason -> number
    notes: dict[str, int] = field(default_factory=dict)  # what else a task counts: words that say what -> number
    windows: int = 0  # examples of rows that gave a list of them
    faults: dict[str, int] = field(default_factory=dict)  # rows that are wrong but used: kind of fault -> number
    fault_examples: dict[str, list[str]] = field(default_factory=dict)  # kind of fault -> its first rows, as text
    unknown: int | None = None  # tokens that the tokenizer does not know; None: not counted
    ordinary: int | None = None  # tokens that are not special; None: not counted
    chunks: int | None = None  # examples that running text was cut into; None: it was not
    left: int | None = None  # tokens that did not fill a chunk

    def to_json(self) -> dict[str, object]:
        """The counts as report.html reads them."""
        found: dict[str, object] = {
            "rows": self.rows,
            "kept": self.kept,
            "dropped": self.dropped,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "empty": self.empty,
            "notes": self.notes,
        }
        found |= {"windows": self.windows} if self.windows else {}
        found |= {"faults": self.faults, "shown": self.fault_examples} if self.faults else {}
        found |= {"unknown": self.unknown, "ordinary": self.ordinary} if self.unknown is not None else {}
        return found | ({"chunks": self.chunks, "left": self.left} if self.chunks is not None else {})

    def __str__(self) -> str:
        """One line for the log."""
        tokens = f"{self.tokens:,} tokens"
        if self.unknown and self.ordinary:
            tokens += f" (unknown to the tokenizer: {self.unknown:,}, {self.unknown / self.ordinary:.1%})"
        found = [f"{self.kept:,} of {self.rows:,} rows", tokens]
        found += [f"{self.windows:,} windows"] if self.windows else []
        found += [f"{count:,} left out: {reason}" for reason, count in self.dropped.items()]
        found += [f"{self.empty:,} without text"] if self.empty else []
        found += [f"{self.truncated:,} cut off at config.max_len"] if self.truncated else []
        found += [f"{count:,} {what}" for what, count in self.notes.items() if count]
        found += [
            f"{count:,} with {kind} ({'; '.join(self.fault_examples[kind])})" for kind, count in self.faults.items()
        ]
        found += [f"{self.chunks:,} chunks, {self.left:,} tokens left over"] if self.chunks is not None else []
        return ", ".join(found)


def fault_problems(report: DataReport, limit: float) -> list[str]:
    """A problem for each kind of fault, if more than a share `limit` of the kept rows have one; else []."""
    if sum(report.faults.values()) <= limit * report.kept:
        return []
    return [
        f"{count:,} of {report.kept:,} rows have {kind} ({'; '.join(report.fault_examples[kind])}): repair them, or "
        "let more of them pass with config.task.fault_limit"
        for kind, count in report.faults.items()
    ]
