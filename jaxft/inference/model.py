"""`jaxft.load`: a Hugging Face model as a Python object that computes, predicts and saves."""

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxft.adapters.peft_files import adapted_architecture, merged_views, read_adapter, with_labels
from jaxft.adapters.prompt_files import StoredPrompt, base_of, read_prompt
from jaxft.adapters.soft_prompt import SoftPrompt
from jaxft.host.defaults import set_environment
from jaxft.inference.answers import ANSWERS, BATCH_ANSWERERS, Answer, AnswerFunction, prompt_of
from jaxft.inference.arguments import counted, decoder_arrays, read_positions
from jaxft.inference.index import Index, index_of, search_in
from jaxft.inference.inputs import inputs_of, padded, texts_read
from jaxft.inference.settings import Inference, inference_of
from jaxft.models.checkpoint.load import LoadReport, find_weights, place
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained, architecture, open_pretrained, tokenizer_of
from jaxft.models.checkpoint.save import save_model
from jaxft.models.checkpoint.sentence_transformers import read_embedding, with_lower_case
from jaxft.models.checkpoint.tokenizer import log_unknown, padding_id
from jaxft.models.heads import AVERAGED, READ_AGAIN, TEXT_LEVEL, Contrast
from jaxft.models.input_ranges import id_problems
from jaxft.models.model import Model, Outputs
from jaxft.models.params import Params, bind, fitting_mesh, shardings, variables
from jaxft.models.part import InputPart
from jaxft.parallel.mesh import data_shards
from jaxft.problems import SHOWN, raise_problems, suggest, truncated_repr
from jaxft.tasks.long_texts import encode_cut

DTYPES = ("float32", "bfloat16")


def load(path: str, head: str | None = None, dtype: str = "float32", adapter: str | None = None) -> "LoadedModel":
    """Loads a model from a Hugging Face directory, or by its hub name.

    adapter: a directory of a PEFT adapter (docs/tuning.md), which is merged into the weights, or a soft prompt, which
    is put before every text. The head is then that of its task_type, and answers are read as its run did if it has a
    jaxft.json. If `path` is such a directory, its base model is loaded with it.

    head: one of KINDS in models/heads.py; None: the one that `architectures` of config.json names. A head without
    weights in the checkpoint is newly initialised (see `report`). dtype: of the computation, float32 or bfloat16.

    Raises UserError if tensors of the checkpoint and parameters of the model do not match.
    """
    if dtype not in DTYPES:
        raise_problems([f"dtype is {truncated_repr(dtype)}, expected {' or '.join(DTYPES)}.{suggest(dtype, DTYPES)}"])
    set_environment()
    if adapter is None and (base := base_of(path)) is not None:
        path, adapter = base, path
    pretrained = open_pretrained(path)
    if adapter is not None:
        pretrained = with_labels(pretrained, adapter)
        if (prompt := read_prompt(adapter)) is not None:
            return _with_prompt(pretrained, prompt, head, dtype)
    files = None if adapter is None else read_adapter(adapter)
    arch = architecture(pretrained, head) if files is None else adapted_architecture(pretrained, files, head)
    model = Model(arch.spec, arch.head, dtype=dtype)
    mesh = fitting_mesh(model, jnp.float32)
    views, report = find_weights(model, pretrained, arch, "pretrained")
    if files is not None:
        views = merged_views(views, files, arch, str(adapter))
        report.new = sorted(set(report.new) - views.keys())
    # Parameters are float32 for any dtype, because `save` writes them back, and bfloat16 would round them.
    dtypes = dict.fromkeys(variables(model), jnp.float32)
    params = place(model, views, shardings(model, mesh), dtypes, seed=0)
    inference = inference_of(pretrained.directory if adapter is None else Path(adapter), arch.kind)
    return LoadedModel(pretrained, arch, model, mesh, params, report, inference)


def _with_prompt(pretrained: Pretrained, stored: StoredPrompt, head: str | None, dtype: str) -> "LoadedModel":
    """A base model with a soft prompt."""
    arch = stored.architecture(pretrained, head)
    model, tune = Model(arch.spec, arch.head, dtype=dtype), stored.tune(arch, pretrained)
    tune.attach(model)
    mesh = fitting_mesh(model, jnp.float32)
    views, report = find_weights(model, pretrained, arch, "pretrained")
    views |= stored.views(model, arch, tune)
    report.new = sorted(set(report.new) - views.keys())
    params = place(model, views, shardings(model, mesh), dict.fromkeys(variables(model), jnp.float32), seed=0)
    inference = inference_of(Path(stored.directory), arch.kind)
    return LoadedModel(pretrained, arch, model, mesh, params, report, inference, tune)


class LoadedModel:
    """A model with its weights on all local devices; made by `load`."""

    def __init__(
        self,
        pretrained: Pretrained,
        arch: Architecture,
        model: Model,
        mesh: jax.sharding.Mesh,
        params: Params,
        report: LoadReport,
        inference: Inference,
        prompt: SoftPrompt | None = None,
    ):
        self.pretrained, self.arch, self.model, self.mesh, self.params = pretrained, arch, model, mesh, params
        self.report = report  # which tensors were loaded, newly initialised, left unused
        self.inference = inference  # how inputs are read and scores decoded
        self.prompt = prompt  # what is put before every text
        self.virtual = prompt.placed(arch) if prompt else None
        self.embedding = read_embedding(pretrained.directory) if arch.kind == "none" else None
        if self.embedding is not None:
            raise_problems(self.embedding.width_problems(arch.spec.output_width or arch.spec.width))
        self._forward = jax.jit(lambda params, batch: _arrays(bind(model, params)(batch)))

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer of transformers."""
        return with_lower_case(tokenizer_of(self.pretrained.directory, self.texts.vocab), self.embedding)

    @property
    def texts(self) -> InputPart:
        """The embedding of token ids: the encoder's, or the decoder's if the encoder does not read texts."""
        source = self.arch.spec.input_side.embed
        return source if source.vocab else self.arch.spec.embed

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        decoder_attention_mask: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        input_features: ArrayLike | None = None,
    ) -> Outputs:
        """The outputs for integer arrays (batch, length), or (batch, choices, length) for multiple choice.

        The mask is 1 for tokens and 0 for padding, on either side. Positions count the tokens of each row without
        padding, unless `position_ids` are given.

        `hidden` is float32 (batch, length, width), `logits` float32: (batch, classes) for classification, (batch,
        choices) for multiple choice, (batch, length, vocabulary) for language models, None without a head. For
        pretraining, `logits` are those of the masked language model and `pair_logits` (batch, 2) those of the sentence
        pair; for replaced-token detection, `logits` are (batch, length), without a pair.

        Encoder-decoder models also need `decoder_input_ids` (batch, target length), except for classification and
        question answering, where the decoder reads the same text shifted by one. `hidden` and `logits` are the
        decoder's, `memory` (batch, length, width) is the encoder's output. Image models take `pixel_values` (batch,
        channels, height, width) instead of `input_ids`, audio models `input_features` (batch, mel bands, frames). Dual
        encoders take `input_ids`, padded on the right, and `pixel_values`: `logits` are the similarities (texts,
        images), `hidden` is that of the texts, `memory` that of the images.
        """
        embed, dual = self.arch.spec.input_side.embed, self.arch.spec.is_dual_encoder
        given = {"input_ids": input_ids, "pixel_values": pixel_values, "input_features": input_features}
        takes = ["input_ids", embed.argument] if dual else [embed.argument]
        if [name for name, array in given.items() if array is not None] != takes:
            inputs = " and ".join(takes)
            raise_problems([f"a {self.pretrained.raw['model_type']} model takes {inputs} and no other input"])
        decoder = {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        others = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        if dual:
            decoder = {"input_ids": input_ids, "attention_mask": others.pop("attention_mask")}
            others |= {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        if embed.argument != "input_ids":
            raise_problems(
                f"{name} is given, but {embed.argument} have none" for name, x in others.items() if x is not None
            )
            return self._of_signals(embed, np.asarray(given[embed.argument]), decoder)
        return self._of_texts(input_ids, attention_mask, token_type_ids, position_ids, decoder)

    def _of_texts(
        self,
        input_ids: ArrayLike | None,
        attention_mask: ArrayLike | None,
        token_type_ids: ArrayLike | None,
        position_ids: ArrayLike | None,
        decoder: dict[str, ArrayLike | None],
    ) -> Outputs:
        chooses = self.arch.kind == "multiple-choice"
        axes = ("batch", "choices", "length") if chooses else ("batch", "length")
        ids = np.asarray(input_ids, np.int32)
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask, np.int32)
        types, positions = (None if x is None else np.asarray(x, np.int32) for x in (token_type_ids, position_ids))
        arrays = {"attention_mask": mask, "token_type_ids": types, "position_ids": positions}
        raise_problems(
            f"{name} has shape {array.shape}, input_ids has {ids.shape}: they must be the same ({', '.join(axes)})"
            for name, array in arrays.items()
            if array is not None and (array.shape != ids.shape or ids.ndim != len(axes))
        )
        if not chooses:
            return self._of_rows(ids, mask, types, positions, decoder_arrays(self.arch, ids, decoder))
        shape = (math.prod(ids.shape[:2]), ids.shape[2])  # a row for each choice
        types, positions = (None if array is None else array.reshape(shape) for array in (types, positions))
        out = self._of_rows(ids.reshape(shape), mask.reshape(shape), types, positions, {})
        logits = None if out.logits is None else out.logits.reshape(ids.shape[:2])
        return Outputs(out.hidden.reshape(*ids.shape, out.hidden.shape[-1]), logits)

    def _of_signals(self, embed: Any, signals: np.ndarray, decoder: dict[str, ArrayLike | None]) -> Outputs:
        """The outputs for images or spectrograms."""
        if signals.shape[1:] != embed.shape:
            shape = ", ".join(map(str, embed.shape))
            raise_problems([f"{embed.argument} have shape {signals.shape}, expected (batch, {shape})"])
        ones = np.ones((len(signals), embed.length), np.int32)
        batch = {embed.key: signals, "segments": ones, "positions": counted(ones)}
        batch |= decoder_arrays(self.arch, signals, decoder)
        raise_problems(id_problems(batch, self.arch.spec))
        if self.arch.spec.is_dual_encoder:
            return self._computed(batch, read_positions(batch["decoder_segments"], self.arch.spec.pool_token))
        return self._computed(batch, np.zeros((len(signals), 1), np.int32))

    def _of_rows(
        self,
        ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None,
        position_ids: np.ndarray | None,
        decoder: dict[str, np.ndarray],
    ) -> Outputs:
        """The outputs for texts; arrays are (batch, length)."""
        positions = counted(attention_mask) if position_ids is None else position_ids
        batch = {"tokens": ids, "segments": attention_mask, "positions": positions} | decoder
        if token_type_ids is not None:
            batch["types"] = token_type_ids
        raise_problems(id_problems(batch, self.arch.spec))
        return self._computed(batch, read_positions(attention_mask, self.arch.spec.pool_token))

    def _computed(self, batch: dict[str, np.ndarray], at: np.ndarray) -> Outputs:
        """`at` (batch, 1) is the position of each row for heads that read one."""
        kind, compares = self.arch.kind, isinstance(self.arch.head, Contrast)
        text_level = kind in TEXT_LEVEL or compares
        if self.prompt is not None:
            moved = {"positions": batch["positions"] + self.prompt.num_virtual_tokens}
            raise_problems(id_problems(moved, self.arch.spec))
        if self.virtual is not None:
            batch, at = self.virtual.in_rows(batch, at)
        reads = {"at": at} if text_level else {"pair_at": at} if kind == "pretraining" else {}
        with jax.set_mesh(self.mesh):
            out = self._forward(self.params, batch | reads)
        if self.virtual is not None:
            out = _of_text(out, self.virtual.count, text_level)
        logits = None if kind == "none" and not compares else out.logits
        if logits is not None and (text_level or kind in AVERAGED):
            logits = logits[:, 0]
        if logits is not None and kind == "pretraining" and logits.shape[-1] == 1:
            logits = logits[..., 0]
        pairs = None if out.pair_logits is None else out.pair_logits[:, 0]
        return Outputs(out.hidden, logits, out.memory, pair_logits=pairs)

    def departing(self, **how: Any) -> "LoadedModel":
        """The model with other settings: `max_length`, or those of its decoding (inference/settings.py). The log says
        what differs from the evaluation."""
        model = copy.copy(self)
        model.inference = self.inference.departing(**how)
        return model

    def predict(self, texts: Any, batch: int = 32, **how: Any) -> list[Answer]:
        """A list with an answer for each input.

        An input is a text, a tuple of texts that the model reads together, such as a pair, or a dict with the columns
        of the training. `texts` is one input, an iterable of inputs, or a DataFrame. `batch` inputs are computed
        together. They are read as in the evaluation; `how` are other settings, see `departing`.

        Classification: {"label", "score"} (several labels: {"labels", "scores"}; regression: {"value"}); with
        `scores="all"` also "label_scores", label -> probability. Masked LM: {"tokens"}, the most probable one for each
        mask. Causal LM: {"perplexity"}. Without a head: {"embedding"}, from the modules of sentence-transformers, or
        else the mean of hidden states; `prompt_name` chooses a prompt.

        Question answering, for pairs (question, context): {"answer", "score", "start", "end"}, the most probable span,
        its probability and its characters in the context; "candidates", the best spans; and "no_answer", the score of
        no answer minus that of the best span (None for an empty context). If that is above the model's threshold, the
        answer is empty. Long contexts are read in windows.

        Token classification: {"entities"}, each {"type", "start", "end", "text", "score"}, or if tags are not entities,
        {"tags"}, each {"word", "start", "end", "tag", "score"}. For lists of words: {"tags", "scores"}, one per word.
        `decode` is "argmax" or "viterbi", the most probable sequence that the scheme allows.

        Multiple choice, for tuples (question, choice, choice, ...): {"choice", "score", "scores"}, the number of the
        most probable choice, from 0, and the probabilities.

        Raises UserError for a text without any token.
        """
        raise_problems(self.unanswerable)
        counted = isinstance(batch, int) and batch >= 1
        raise_problems([] if counted else [f"batch is {truncated_repr(batch)}, expected a whole number, 1 or more"])
        model = self.departing(**how) if how else self
        found = texts_read(inputs_of(texts), model.inference)
        if self.arch.kind in BATCH_ANSWERERS:
            return BATCH_ANSWERERS[self.arch.kind](model, found, batch)
        prompt = prompt_of(model)
        rows = [model.encoded(prompt + one[0], *one[1:]) for one in found]
        empty = [number for number, row in enumerate(rows, 1) if len(row["input_ids"]) == 0]
        raise_problems(f"text {number} is empty: it has no tokens. Remove it" for number in empty[:SHOWN])
        answers = dict(model.answered(rows, batch, ANSWERS[self.arch.kind]))
        return [answers[number] for number in range(len(rows))]

    def index(
        self,
        rows: Any,
        method: str = "exact",
        store: str | Path | None = None,
        prompt_name: str | None = None,
        batch: int = 32,
    ) -> Index:
        """Rows with the embeddings of their texts, for `search`. Rows are read as `predict` reads its inputs.

        `method` is exact, or hnsw, an approximate index for very many rows (pip install 'jaxft[search]'). `store` is a
        folder that keeps the embeddings: they are read if they are there, else written. `prompt_name` is the prompt
        before each text; None: the model directory's for documents, if it has one.

        Raises UserError for a model with a head, for a text without tokens, and for a folder that was written for
        another model or other rows.
        """
        return index_of(self, rows, method, store, prompt_name, batch)

    def search(
        self, queries: Any, rows: Any, top: int = 10, prompt_name: str | None = None, batch: int = 32
    ) -> list[list[Answer]]:
        """For each query the `top` rows with the nearest embeddings, the best first, of equal ones the first row.

        A hit is a dict of the row's fields (of a text: `text`), `row`, its number from 0, and `score`: the similarity
        that the model directory names, the cosine if it names none; a distance is negative. A row's own field of this
        name stays, and the hit's is called found_NAME. `rows` are those of `index`, or what it gave, which is faster
        for several searches. `prompt_name` is the prompt before each query; None: the model directory's for queries.
        """
        index = rows if isinstance(rows, Index) else self.index(rows, batch=batch)
        return search_in(self, queries, index, top, prompt_name, batch)

    def encoded(self, *texts: str) -> Any:
        """transformers' encoding of a text or a pair, cut to `longest` tokens: of a pair, the longer text first."""
        return encode_cut(texts, self.tokenizer, self.longest)

    def answered(self, rows: Sequence[Any], batch: int, answer: AnswerFunction) -> Iterator[tuple[int, Any]]:
        """(number, answer) of each row of arguments, ordered by length."""
        log_unknown([row["input_ids"] for row in rows], self.tokenizer)
        order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable").tolist()
        size = -(-batch // data_shards(self.mesh)) * data_shards(self.mesh)
        for start in range(0, len(rows), batch):
            chosen = order[start : start + batch]
            arguments = padded([rows[i] for i in chosen], padding_id(self.tokenizer), size, self.longest)
            single = self.arch.kind == "multiple-choice"  # each row is one choice
            out = self(**{name: array[:, None] if single else array for name, array in arguments.items()})
            for row, number in enumerate(chosen):
                yield number, answer(self, {name: value[row] for name, value in arguments.items()}, out, row)

    @property
    def unanswerable(self) -> list[str]:
        """Why `predict` cannot answer for this model; [] if it can."""
        if self.arch.kind not in ANSWERS and self.arch.kind not in BATCH_ANSWERERS:
            return [f"predict does not know {self.arch.kind} yet: call the model for its logits"]
        if (argument := self.arch.spec.input_side.embed.argument) != "input_ids":
            return [f"predict reads texts, but this model takes {argument}: call the model"]
        if self.arch.spec.encoder is not None and self.arch.kind not in READ_AGAIN:
            return ["predict has no text for this model's decoder: call the model with decoder_input_ids"]
        return []

    @property
    def longest(self) -> int:
        """The most tokens of a text that `predict` reads: those of the evaluation, else the limit of the model."""
        named = self.inference.max_length or (self.embedding.max_length if self.embedding else None)
        taken = named or min(self.tokenizer.model_max_length, 4096)
        places = (self.arch.spec.max_positions or 10**6) - (self.prompt.num_virtual_tokens if self.prompt else 0)
        return int(min(places, taken))

    def save(self, directory: str | Path, dtype: str = "auto") -> None:
        """Writes a Hugging Face directory. Tensors of an unchanged model are byte-equal to the original ones.

        Raises UserError for a model with a soft prompt, which is not part of its weights.
        """
        raise_problems(
            ["a soft prompt cannot be merged into the weights: copy the directory of the adapter instead"]
            if self.prompt
            else []
        )
        files: dict[str, str | bytes] = {**self.embedding.contents()} if self.embedding else {}
        save_model(directory, self.model, self.params, self.pretrained, self.arch, dtype=dtype, files=files)


def _of_text(out: Outputs, count: int, text_level: bool) -> Outputs:
    """The outputs without those of the first `count` tokens of each row, which the encoder reads if there is one."""
    if out.memory is not None:
        return out._replace(memory=out.memory[:, count:])
    logits = out.logits if text_level or out.logits is None else out.logits[:, count:]
    return out._replace(hidden=out.hidden[:, count:], head_output=logits)


def _arrays(out: Outputs) -> Outputs:
    memory = None if out.memory is None else out.memory.astype(jnp.float32)
    return Outputs(out.hidden.astype(jnp.float32), out.logits, memory, pair_logits=out.pair_logits)
