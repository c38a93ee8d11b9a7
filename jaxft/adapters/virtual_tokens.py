"""Places of virtual tokens: token ids above the vocabulary, before each text of an example or of a batch."""

from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
PER_PREDICTION = ("targets", "weights", "bytes", "digests")  # keys of an example (data/example.py)


@dataclass(frozen=True)
class VirtualTokens:
    """`count` tokens with the ids from `first_id` on, at the positions 0 to count - 1 of every text.

    They have the token type 0, and no target. A head that reads the first token of a text (`reads_first`) reads the
    first of them, as in PEFT; every other position that is read moves with the text.
    """

    count: int
    first_id: int  # the number of token embeddings of the model
    reads_first: bool

    def in_example(self, example: Arrays) -> Arrays:
        """An example (data/example.py) of one text, with the virtual tokens before it."""
        made = {**example, "tokens": self._before(example["tokens"], self.ids)}
        if "types" in example:
            made["types"] = self._before(example["types"], 0)
        if "at" in example:
            made["at"] = self._moved(example["at"])
        elif "decoder_tokens" not in example:  # every token is a prediction
            made |= {key: self._before(example[key], 0) for key in PER_PREDICTION if key in example}
        return made

    def in_rows(self, batch: Arrays, at: np.ndarray) -> tuple[Arrays, np.ndarray]:
        """Rows (batch, length) of one text each, which padding may surround, and the columns that a head reads."""
        made = {
            **batch,
            "tokens": self._before_rows(batch["tokens"], self.ids),
            "segments": self._before_rows(batch["segments"], 1),
            "positions": self._before_rows(batch["positions"] + self.count, np.arange(self.count)),
        }
        if "types" in batch:
            made["types"] = self._before_rows(batch["types"], 0)
        return made, np.zeros_like(at) if self.reads_first else at + self.count

    @property
    def ids(self) -> np.ndarray:
        """Token ids (count,)."""
        return np.arange(self.first_id, self.first_id + self.count, dtype=np.int32)

    def _moved(self, at: np.ndarray) -> np.ndarray:
        first = self.reads_first & (at == 0)
        return np.where(first, 0, at + self.count).astype(at.dtype)

    def _before(self, values: np.ndarray, fill: np.ndarray | int) -> np.ndarray:
        added = np.empty((self.count, *values.shape[1:]), values.dtype)
        added[...] = fill
        return np.concatenate([added, values])

    def _before_rows(self, rows: np.ndarray, fill: np.ndarray | int) -> np.ndarray:
        added = np.empty((len(rows), self.count), np.int32)
        added[...] = fill
        return np.concatenate([added, rows.astype(np.int32)], 1)
