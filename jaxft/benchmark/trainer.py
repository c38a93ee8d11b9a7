"""transformers' side of a benchmark: its Trainer does the same work in PyTorch. Imports no JAX."""

import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from jaxft.benchmark.job import WARMUP_STEPS, Job, read_examples, read_job
from jaxft.benchmark.loading import measure
from jaxft.host.memory import peak_bytes

CLASSES = {
    "none": transformers.AutoModel,
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "causal-lm": transformers.AutoModelForCausalLM,
}


def measure_load(job: Job, folder: Path) -> dict[str, float]:
    """Loading a model."""

    def load() -> list[np.ndarray]:
        parameters = CLASSES[job.head].from_pretrained(job.model).parameters()
        return [value.detach().reshape(-1).view(torch.uint8).numpy() for value in parameters]

    return measure(load)


def measure_train(job: Job, folder: Path) -> dict[str, Any]:
    """Training steps."""
    clock = Clock()
    collator = Collator(job)
    trainer = trainer_of(job, collator, callbacks=[clock], train_dataset=read_examples(folder / "train.npz"))
    trainer.train()
    seconds = np.diff(clock.ends)[WARMUP_STEPS - 1 :]
    # Batches are made in the order in which they are used, some in advance.
    size = job.micro_batches
    made = collator.made[WARMUP_STEPS * size : (WARMUP_STEPS + job.steps) * size]
    useful, padded = np.sum(made, 0).tolist()
    return {
        "step_seconds": statistics.median(seconds),
        "steps": seconds.tolist(),
        "useful_tokens_per_second": useful / sum(seconds),
        "padded_tokens_per_second": padded / sum(seconds),
        "useful_share": useful / padded,
        "peak_bytes": peak_bytes(),
    }


def measure_evaluate(job: Job, folder: Path) -> dict[str, float]:
    """Evaluation of the first set."""
    examples: Any = read_examples(folder / "evaluate.npz")  # the Trainer takes lists, but is annotated with Dataset
    collator = Collator(job)
    trainer = trainer_of(job, collator, compute_metrics=accuracy if job.head == "sequence-classification" else None)
    trainer.evaluate(examples[: 2 * job.eval_batch])
    collator.made.clear()
    begin = time.perf_counter()
    trainer.evaluate(examples)
    seconds = time.perf_counter() - begin
    useful, padded = np.sum(collator.made, 0).tolist()
    return {
        "seconds": seconds,
        "useful_tokens_per_second": useful / seconds,
        "padded_tokens_per_second": padded / seconds,
        "useful_share": useful / padded,
        "peak_bytes": peak_bytes(),
    }


def trainer_of(
    job: Job, collator: "Collator", compute_metrics: Callable[[Any], dict[str, float]] | None = None, **options: Any
) -> transformers.Trainer:
    """A Trainer with the settings of the job."""
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=WARMUP_STEPS + job.steps,
        per_device_train_batch_size=job.batch // job.micro_batches,
        gradient_accumulation_steps=job.micro_batches,
        per_device_eval_batch_size=job.eval_batch,
        learning_rate=job.lr,
        weight_decay=job.optim["decay"],
        adam_beta1=job.optim["b1"],
        adam_beta2=job.optim["b2"],
        adam_epsilon=job.optim["eps"],
        max_grad_norm=job.clip or 0.0,
        bf16=job.dtype == "bfloat16",
        seed=job.seed,
        logging_steps=job.log_every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="group_by_length" if job.padding == "grouped" else "random",
        use_cpu=not torch.cuda.is_available(),
    )
    return transformers.Trainer(model_of(job), arguments, collator, compute_metrics=compute_metrics, **options)


def model_of(job: Job) -> transformers.PreTrainedModel:
    """The model, of which only `job.trained` requires gradients."""
    config = transformers.AutoConfig.from_pretrained(job.model)
    if job.labels or job.problem_type:
        config.num_labels, config.problem_type = len(job.labels or "1"), job.problem_type
    if job.dropout is not None:
        for name in [name for name in vars(config) if name.endswith(("dropout", "dropout_prob", "_pdrop"))]:
            setattr(config, name, job.dropout)
    model_class = CLASSES[job.head]
    if job.random:
        model = model_class.from_config(config)
    else:
        model = model_class.from_pretrained(job.model, config=config, ignore_mismatched_sizes=True, dtype=torch.float32)
    parameters = dict(model.named_parameters())
    trained = set(job.trained) & parameters.keys()
    assert trained, f"{job.trained[:3]} ... are not among the model's parameters"
    for name, parameter in parameters.items():
        parameter.requires_grad = name in trained
    return model


def accuracy(prediction: Any) -> dict[str, float]:
    """Accuracy, from an EvalPrediction."""
    logits, labels = prediction
    return {"accuracy": float((logits.argmax(-1) == labels).mean())} if labels.ndim == 1 else {}


class Collator:
    """A collator of transformers that records the size of each batch."""

    def __init__(self, job: Job):
        tokenizer = transformers.AutoTokenizer.from_pretrained(job.model)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        fixed = job.padding == "fixed"
        options: dict[str, Any] = {"padding": "max_length", "max_length": job.max_len} if fixed else {}
        self.collate: Callable[[list[Any]], Any]
        if job.head == "token-classification":
            self.collate = transformers.DataCollatorForTokenClassification(tokenizer, **options)
        elif job.head in ("sequence-classification", "question-answering"):
            self.collate = transformers.DataCollatorWithPadding(tokenizer, **options)
        else:
            masked = job.head == "masked-lm"
            multiple = job.max_len if fixed else None
            self.collate = transformers.DataCollatorForLanguageModeling(
                tokenizer, mlm=masked, mlm_probability=job.mask_rate if masked else None, pad_to_multiple_of=multiple
            )
        self.made: list[tuple[int, int]] = []  # useful and padded tokens

    def __call__(self, examples: list[Any]) -> Any:
        """A batch of examples."""
        batch = self.collate(examples)
        self.made.append((int(batch["attention_mask"].sum()), batch["input_ids"].numel()))
        return batch


class Clock(transformers.TrainerCallback):
    """Records the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **options: Any) -> None:
        """Called by the Trainer."""
        self.ends.append(time.perf_counter())


MEASURES = {"load": measure_load, "train": measure_train, "evaluate": measure_evaluate}


if __name__ == "__main__":
    row, folder = (word.partition("=")[2] for word in sys.argv[1:])
    logging.disable(logging.WARNING)
    print(json.dumps(MEASURES[row](read_job(Path(folder)), Path(folder))))
