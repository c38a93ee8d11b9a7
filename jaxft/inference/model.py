"""`jaxft.load`: a Hugging Face model as a Python object that computes, predicts and saves."""

import copy
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.inference.answers import ANSWERS, BATCH_ANSWERERS, prompt_of
from jaxft.inference.inputs import inputs_of, padded, texts_read
from jaxft.inference.settings import Inference, inference_of
from jaxft.models.checkpoint.load import LoadReport, find_weights, place
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained, architecture, open_pretrained, tokenizer_of
from jaxft.models.checkpoint.save import save_model
from jaxft.models.checkpoint.sentence_transformers import read_embedding, with_lower_case
from jaxft.models.checkpoint.tokenizer import log_unknown, padding_id
from jaxft.models.heads import AVERAGED, READ_AGAIN, TEXT_LEVEL, Contrast
from jaxft.models.input_ranges import id_problems
from jaxft.models.layers.basic import Embed
from jaxft.models.model import Model, Outputs
from jaxft.models.params import bind, fitting_mesh, shardings, variables
from jaxft.parallel.mesh import data_shards
from jaxft.problems import SHOWN, raise_problems, suggest, truncated_repr
from jaxft.tasks.long_texts import encode_cut

DTYPES = ("float32", "bfloat16")


def load(path: str, head: str | None = None, dtype: str = "float32") -> "LoadedModel":
    """Load a Hugging Face directory or hub name.

    head: one of models/heads.py KINDS; None takes the one that config.json's `architectures` names. A head that the
    checkpoint has no weights for is newly initialised (see `report`). dtype: of the computation, float32 or bfloat16.
    Raises UserError for anything in the checkpoint that has no place in the model, or the other way round.
    """
    if dtype not in DTYPES:
        raise_problems([f"dtype is {truncated_repr(dtype)}, expected {' or '.join(DTYPES)}.{suggest(dtype, DTYPES)}"])
    pretrained = open_pretrained(path)
    arch = architecture(pretrained, head)
    model = Model(arch.spec, arch.head, dtype=dtype)
    mesh = fitting_mesh(model, jnp.float32)
    views, report = find_weights(model, pretrained, arch, "pretrained")
    # Float32 parameters whatever the dtype: they are what `save` writes back, and bfloat16 would round them.
    dtypes = dict.fromkeys(variables(model), jnp.float32)
    params = place(model, views, shardings(model, mesh), dtypes, seed=0)
    return LoadedModel(pretrained, arch, model, mesh, params, report, inference_of(pretrained.directory, arch.kind))


class LoadedModel:
    """A model with its weights on all local devices; made by `load`."""

    def __init__(
        self, pretrained: Pretrained, arch: Architecture, model: Model, mesh, params, report: LoadReport, inference
    ):
        self.pretrained, self.arch, self.model, self.mesh, self.params = pretrained, arch, model, mesh, params
        self.report = report  # what was loaded, newly initialised, left unused
        self.inference: Inference = inference  # how it reads its inputs and decodes its scores
        self.embedding = read_embedding(pretrained.directory) if arch.kind == "none" else None  # what vectors become
        if self.embedding is not None:
            raise_problems(self.embedding.width_problems(arch.spec.output_width or arch.spec.width))
        self._forward = jax.jit(lambda params, batch: _arrays(bind(model, params)(batch)))

    @property
    def tokenizer(self):
        if not hasattr(self, "_tokenizer"):
            self._tokenizer = with_lower_case(tokenizer_of(self.pretrained.directory, self.texts.vocab), self.embedding)
        return self._tokenizer

    @property
    def texts(self) -> Embed:
        """The embeddings of what a tokenizer makes: of the encoder's texts, or else of the decoder's."""
        source = self.arch.spec.input_side.embed
        return source if source.vocab else self.arch.spec.embed

    def __call__(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        pixel_values=None,
        input_features=None,
    ) -> Outputs:
        """Integer arrays (batch, length), or for multiple choice (batch, choices, length); the mask is 1 for tokens and
        0 for padding, on either side.

        Returns `hidden` (batch, length, width) and `logits`, float32: (batch, classes) for classification, (batch,
        choices) for multiple choice, (batch, length, vocabulary) for language models, None without a head. Positions
        count the tokens of each row, padding left out, unless `position_ids` says otherwise. For pretraining `logits`
        are the masked language model's, and `pair_logits` (batch, 2) the pair's; or where replaced tokens are found,
        `logits` are (batch, length), and there is no pair.

        A model of encoder and decoder also needs `decoder_input_ids` (batch, target length), unless its head classifies
        or answers: its decoder then reads the same text, one place later. `hidden` and `logits` are the decoder's,
        `memory` (batch, length, width) is the encoder's result. In the place of `input_ids` a model of images
        takes `pixel_values` (batch, channels, height, width), one of sounds `input_features` (batch, bands, spectra).
        One that compares texts, which end where their mask does, with images takes `input_ids` and `pixel_values`:
        `logits` (texts, images) say how near they are, `hidden` is of the texts, `memory` of the images.
        """
        embed, apart = self.arch.spec.input_side.embed, self.arch.spec.is_dual_encoder
        given = {"input_ids": input_ids, "pixel_values": pixel_values, "input_features": input_features}
        takes = ["input_ids", embed.argument] if apart else [embed.argument]
        if [name for name, array in given.items() if array is not None] != takes:
            inputs = " and ".join(takes)
            raise_problems([f"a {self.pretrained.raw['model_type']} model takes {inputs}, and no other input"])
        decoder = {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        others = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        if apart:
            decoder = {"input_ids": input_ids, "attention_mask": others.pop("attention_mask")}
            others |= {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        if embed.argument != "input_ids":
            raise_problems(
                f"{name} is given, but {embed.argument} have none" for name, x in others.items() if x is not None
            )
            return self._of_signals(embed, np.asarray(given[embed.argument]), decoder)
        chooses = self.arch.kind == "multiple-choice"
        axes = ("batch", "choices", "length") if chooses else ("batch", "length")
        ids = np.asarray(input_ids, np.int32)
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask, np.int32)
        given = {"attention_mask": mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        raise_problems(
            f"{name} has shape {np.shape(array)}, input_ids has {ids.shape}: they must be the same ({', '.join(axes)})"
            for name, array in given.items()
            if array is not None and np.shape(array) != ids.shape or ids.ndim != len(axes)
        )
        if not chooses:
            decoder = self._decoder_arrays(ids, decoder)
            return self._of_rows(ids, **given, decoder=decoder)
        shape = (math.prod(ids.shape[:2]), ids.shape[2])  # a row for each choice
        given = {name: array if array is None else np.reshape(array, shape) for name, array in given.items()}
        out = self._of_rows(ids.reshape(shape), **given)
        return Outputs(out.hidden.reshape(*ids.shape, out.hidden.shape[-1]), out.logits.reshape(ids.shape[:2]))

    def _of_signals(self, embed, signals: np.ndarray, decoder: dict) -> Outputs:
        if signals.shape[1:] != embed.shape:
            shape = ", ".join(map(str, embed.shape))
            raise_problems([f"{embed.argument} have shape {signals.shape}, expected (batch, {shape})"])
        ones = np.ones((len(signals), embed.length), np.int32)
        batch = {embed.key: signals, "segments": ones, "positions": counted(ones)}
        batch |= self._decoder_arrays(signals, decoder)
        raise_problems(id_problems(batch, self.arch.spec))
        if self.arch.spec.is_dual_encoder:
            return self._computed(batch, read_positions(batch["decoder_segments"], self.arch.spec.pool_token))
        return self._computed(batch, np.zeros((len(signals), 1), np.int32))

    def _decoder_arrays(self, source, given: dict) -> dict[str, np.ndarray]:
        """What the decoder reads, under the names of a batch; {} where it reads the same text or there is none.

        `given` are its tokens and their mask, by the names of their arguments.
        """
        (name, ids), (_, mask) = given.items()
        again, encodes = self.arch.kind in READ_AGAIN, self.arch.spec.encoder is not None
        if ids is None:
            missing = encodes and not again
            raise_problems(["decoder_input_ids are needed: the text that the decoder reads"] if missing else [])
            raise_problems(["decoder_attention_mask is given without decoder_input_ids"] if mask is not None else [])
            return {}
        if not encodes or again:
            raise_problems(
                [f"decoder_input_ids are given, but a {self.arch.kind} model of this family does not read them"]
            )
        ids = np.asarray(ids, np.int32)
        mask = np.ones_like(ids) if mask is None else np.asarray(mask, np.int32)
        fixed = not self.arch.spec.is_dual_encoder  # how many there are
        if ids.ndim != 2 or (fixed and ids.shape[0] != source.shape[0]) or mask.shape != ids.shape:
            rows = f", with the batch of {self.arch.spec.input_side.embed.argument}, {source.shape[0]}" if fixed else ""
            raise_problems(
                [f"{name} have shape {ids.shape}, their mask {mask.shape}: both must be (batch, length){rows}"]
            )
        return {"decoder_tokens": ids, "decoder_segments": mask, "decoder_positions": counted(mask)}

    def _of_rows(self, ids, attention_mask, token_type_ids, position_ids, decoder=None) -> Outputs:
        """`__call__` of arrays that are (batch, length) each, or None."""
        positions = counted(attention_mask) if position_ids is None else np.asarray(position_ids, np.int32)
        batch = {"tokens": ids, "segments": attention_mask, "positions": positions} | (decoder or {})
        if token_type_ids is not None:
            batch["types"] = np.asarray(token_type_ids, np.int32)
        raise_problems(id_problems(batch, self.arch.spec))
        return self._computed(batch, read_positions(attention_mask, self.arch.spec.pool_token))

    def _computed(self, batch, at: np.ndarray) -> Outputs:
        """`at` (batch, 1) is what a head reads that reads one position of each row."""
        kind, compares = self.arch.kind, isinstance(self.arch.head, Contrast)
        text_level = kind in TEXT_LEVEL or compares
        reads = {"at": at} if text_level else {"pair_at": at} if kind == "pretraining" else {}
        with jax.set_mesh(self.mesh):
            out = self._forward(self.params, batch | reads)
        silent = kind == "none" and not compares
        logits = None if silent else out.logits[:, 0] if text_level or kind in AVERAGED else out.logits
        if kind == "pretraining" and logits.shape[-1] == 1:
            logits = logits[..., 0]
        pairs = None if out.pair_logits is None else out.pair_logits[:, 0]
        return Outputs(out.hidden, logits, out.memory, pair_logits=pairs)

    def departing(self, **how) -> "LoadedModel":
        """The same model with other settings of inference: `max_length`, or what its head's decoding has
        (inference/settings.py). The log says what differs from the evaluation."""
        model = copy.copy(self)
        model.inference = self.inference.departing(**how)
        return model

    def predict(self, texts, batch: int = 32, **how) -> list[dict]:
        """What the head says of each text, in a list: of one text, a list of one answer.

        An input is a text, a tuple of the texts that the model reads together, such as a pair, or a dict with the
        columns that it was trained with. They come in a list, or any other iterable, or as a DataFrame. Inputs are read
        as they were when the model was evaluated; `how` are other settings, see `departing`.

        Classification: {"label", "score"} (several labels: {"labels", "scores"}; regression: {"value"}). Masked LM:
        {"tokens"}, the likeliest for each mask. No head: {"embedding"}, what the modules of sentence-transformers make
        of the hidden states, without them the mean; `prompt_name` is that of a prompt, "" for none. Causal LM:
        {"perplexity"} of the text. Raises UserError for a text without any token.

        Question answering, of pairs (question, context): {"answer", "score", "start", "end"}, the likeliest span, its
        share of the likelihood and its characters in the context; "candidates", the best spans; and "no_answer", by how
        much the score of no answer is larger (None where the context is empty). Where that is more than the model's
        threshold, the answer is empty. A long context is read in windows.

        Token classification: {"entities"}, each {"type", "start", "end", "text", "score"}, or {"tags"}, each {"word",
        "start", "end", "tag", "score"}, where tags name no entities. Of a list of words: {"tags", "scores"}, one for
        each. `decode` is "argmax" or "viterbi", the likeliest sequence that the tags' scheme allows.

        Multiple choice, of texts (question, choice, choice, ...): {"choice", "score", "scores"}, the number of the
        likeliest from 0, and the share of each.
        """
        raise_problems(self.unanswerable)
        model = self.departing(**how) if how else self
        found = texts_read(inputs_of(texts), model.inference)
        if self.arch.kind in BATCH_ANSWERERS:
            return BATCH_ANSWERERS[self.arch.kind](model, found, batch)
        prompt = prompt_of(model)
        rows = [model.encoded(prompt + one[0], *one[1:]) for one in found]
        empty = [number for number, row in enumerate(rows, 1) if len(row["input_ids"]) == 0]
        raise_problems(
            f"text {number} is empty: the tokenizer makes no token of it, so that there is nothing to read"
            for number in empty[:SHOWN]
        )
        answers = dict(model.answered(rows, batch, ANSWERS[self.arch.kind]))
        return [answers[number] for number in range(len(rows))]

    def encoded(self, *texts: str):
        """transformers' encoding of a text or a pair, as the model reads it; of a pair the longer text is cut first."""
        return encode_cut(texts, self.tokenizer, self.longest)

    def answered(self, rows: list, batch: int, answer: Callable) -> Iterator[tuple[int, object]]:
        """(number, answer) of each row, in the order of their lengths; see ANSWERS for what `answer` is given."""
        log_unknown([row["input_ids"] for row in rows], self.tokenizer)
        order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable").tolist()
        size = -(-batch // data_shards(self.mesh)) * data_shards(self.mesh)
        for start in range(0, len(rows), batch):
            chosen = order[start : start + batch]
            arguments = padded([rows[i] for i in chosen], padding_id(self.tokenizer), size, self.longest)
            single = self.arch.kind == "multiple-choice"  # each row is a choice by itself
            out = self(**{name: array[:, None] if single else array for name, array in arguments.items()})
            for row, number in enumerate(chosen):
                yield number, answer(self, {name: value[row] for name, value in arguments.items()}, out, row)

    @property
    def unanswerable(self) -> list[str]:
        """Why `predict` has no answers, whatever the texts."""
        if self.arch.kind not in ANSWERS and self.arch.kind not in BATCH_ANSWERERS:
            return [f"predict does not know {self.arch.kind} yet: call the model for its logits"]
        if (argument := self.arch.spec.input_side.embed.argument) != "input_ids":
            return [f"predict reads texts, but this model takes {argument}: call the model"]
        if self.arch.spec.encoder is not None and self.arch.kind not in READ_AGAIN:
            return ["predict has no text for this model's decoder: call the model with decoder_input_ids"]
        return []

    @property
    def longest(self) -> int:
        """Most tokens of a text that `predict` keeps: as many as in evaluation, else what the model takes."""
        named = self.inference.max_length or (self.embedding.max_length if self.embedding else None)
        taken = named or min(self.tokenizer.model_max_length, 4096)
        return int(min(self.arch.spec.max_positions or 10**6, taken))

    def save(self, directory, dtype: str = "auto") -> None:
        """Write a Hugging Face directory. After an unchanged load each tensor is byte-equal to the original."""
        files = self.embedding.contents() if self.embedding else {}
        save_model(directory, self.model, self.params, self.pretrained, self.arch, dtype=dtype, files=files)


def _arrays(out: Outputs) -> Outputs:
    memory = None if out.memory is None else out.memory.astype(jnp.float32)
    return Outputs(out.hidden.astype(jnp.float32), out.logits, memory, pair_logits=out.pair_logits)


def counted(mask: np.ndarray) -> np.ndarray:
    """Positions (batch, length) of tokens: how many of their row stand before them."""
    return np.maximum(np.cumsum(mask, 1) - 1, 0).astype(np.int32)


def read_positions(mask: np.ndarray, reads: str) -> np.ndarray:
    """Position (batch, 1) of the first or last token of each row."""
    first = mask.argmax(1)
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
    return (first if reads == "first" else last)[:, None].astype(np.int32)
