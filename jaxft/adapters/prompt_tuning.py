"""Prompt tuning (Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning")."""

import zlib
from typing import Any, ClassVar, Literal

import numpy as np

from jaxft.adapters.soft_prompt import (
    PromptTable,
    SoftPrompt,
    attach_rows,
    input_table,
    input_width,
)
from jaxft.config.component import config
from jaxft.config.ranges import Count
from jaxft.models.checkpoint.load import Views
from jaxft.models.checkpoint.pretrained import Architecture
from jaxft.models.model import Model
from jaxft.problems import UserError


@config
class PromptTuning(SoftPrompt):
    """A table of token embeddings before every text trains, with the head of a task; the rest is frozen.

    A good learning rate is ten times that of full tuning or more: 1e-2 for a small encoder, 1e-3 for a language model
    of billions of parameters.
    """

    num_virtual_tokens: Count = 20  # of the table
    # First values: embeddings of tokens drawn from the vocabulary, random numbers, or the embeddings of `init_text`.
    init: Literal["vocabulary", "random", "text"] = "vocabulary"
    init_text: str | None = None  # is repeated, or cut off, until it has num_virtual_tokens tokens

    lr_scale: ClassVar[float] = 20.0  # tune/learning_rate.py

    def problems(self) -> list[str]:
        if self.init == "text" and not (self.init_text or "").strip():
            return ["init is 'text', but there is no text: set init_text, such as an instruction for the task"]
        if self.init != "text" and self.init_text is not None:
            return [f"init_text is set, but init is {self.init!r}: set init='text', or leave init_text out"]
        return []

    def attach(self, model: Model) -> None:
        """See soft_prompt.py."""
        attach_rows(model, PromptTable(self.num_virtual_tokens, input_width(model.spec)))

    def initial(self, model: Model, views: Views, tokenizer: Any, seed: int) -> Views:
        """See soft_prompt.py."""
        path, _ = input_table(model)
        table = views.get(f"{path}.embedding")
        if self.init == "random" or table is None:
            return {}
        rows = [table[number : number + 1, :] for number in self._token_ids(tokenizer, seed)]
        return {f"{path}.virtual.source.embedding": np.concatenate(rows).astype(np.float32)}

    def from_vectors(self, model: Model, vectors: np.ndarray) -> Views | None:
        """See soft_prompt.py."""
        path, _ = input_table(model)
        fits = vectors.shape[1] == input_width(model.spec)
        return {f"{path}.virtual.source.embedding": vectors} if fits else None

    def peft_config(self, arch: Architecture) -> dict[str, Any]:
        """See soft_prompt.py. PEFT needs no `prompt_tuning_init` for a table that is stored."""
        return {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM"}

    def _token_ids(self, tokenizer: Any, seed: int) -> list[int]:
        """The tokens whose embeddings the table begins with."""
        count = self.num_virtual_tokens
        if self.init == "text":
            ids = tokenizer(self.init_text)["input_ids"]
            if not ids:
                raise UserError("config.tune.init_text has no tokens: write a text, such as an instruction")
            return (ids * (count // len(ids) + 1))[:count]
        ordinary = np.setdiff1d(list(tokenizer.get_vocab().values()), tokenizer.all_special_ids)
        generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(b"virtual tokens")]))
        return generator.choice(ordinary, count).tolist()
