"""What other trainers call the fields of a configuration, and tasks: for messages only, these names are not accepted.

The names are those of transformers' TrainingArguments and scripts, of PEFT, of PyTorch's optimizers, of Keras and of
Lightning.
"""

from collections.abc import Collection

from jaxft.problems import suggest

FIELDS = {
    "adam_beta1": "optim.b1",
    "adam_beta2": "optim.b2",
    "adam_epsilon": "optim.eps",
    "adapter_name_or_path": "adapter",
    "batch_size": "batch",
    "beta1": "optim.b1",
    "beta2": "optim.b2",
    "beta_1": "optim.b1",
    "beta_2": "optim.b2",
    "bf16": "dtype",
    "dataloader_drop_last": "batching",
    "dataset": "data",
    "dataset_name": "data",
    "epsilon": "optim.eps",
    "eval_batch_size": "evals.NAME.batch",
    "eval_dataset": "evals.NAME.data",
    "eval_steps": "evals.NAME.every",
    "fp16": "dtype",
    "gradient_accumulation_steps": "micro_batches",
    "gradient_checkpointing": "remat",
    "gradient_clip_val": "clip",
    "hira_dropout": "tune.dropout",
    "label_column": "task.label",
    "label_column_name": "task.label",
    "label_smoothing_factor": "task.label_smoothing",
    "layerwise_lr_decay": "layer_decay",
    "learning_rate": "lr",
    "load_best_model_at_end": "save.best",
    "load_in_4bit": "quantization",
    "load_in_8bit": "quantization",
    "logging_steps": "log_every",
    "lora_alpha": "tune.alpha",
    "lora_dropout": "tune.dropout",
    "lora_r": "tune.rank",
    "lora_rank": "tune.rank",
    "loraplus_lr_ratio": "tune.lr_ratio",
    "lr_scheduler": "schedule",
    "lr_scheduler_type": "schedule",
    "max_epochs": "epochs",
    "max_grad_norm": "clip",
    "max_length": "max_len",
    "max_seq_len": "max_len",
    "max_seq_length": "max_len",
    "max_steps": "steps",
    "metric_for_best_model": "save.best",
    "miss_dropout": "tune.dropout",
    "model_max_length": "max_len",
    "model_name": "model",
    "model_name_or_path": "model",
    "num_cayley_neumann_terms": "tune.neumann_terms",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "num_training_steps": "steps",
    "oft_block_size": "tune.block_size",
    "optimizer": "optim",
    "packing": "batching",
    "peft_config": "tune",
    "per_device_eval_batch_size": "evals.NAME.batch",
    "per_device_train_batch_size": "batch",
    "precision": "dtype",
    "prefix_projection": "tune.projection",
    "prompt_tuning_init": "tune.init",
    "prompt_tuning_init_text": "tune.init_text",
    "quantization_config": "quantization",
    "r": "tune.rank",
    "random_seed": "seed",
    "report_to": "wandb",
    "save_steps": "save.every",
    "save_total_limit": "save.keep",
    "scheduler": "schedule",
    "test_file": "evals.NAME.data",
    "text_column": "task.text",
    "text_column_name": "task.text",
    "train_batch_size": "batch",
    "train_dataset": "data",
    "train_file": "data",
    "use_dora": "tune",
    "use_peft": "tune",
    "use_rslora": "tune.rslora",
    "validation_file": "evals.NAME.data",
    "wandb_project": "wandb",
    "warmup_ratio": "schedule.warmup",
    "warmup_steps": "schedule.warmup",
    "weight_decay": "optim.decay",
}
# Names of transformers' pipelines, and of tasks.
TASKS = {
    "classification": "Classify",
    "fill-mask": "MaskedLM",
    "language-modeling": "CausalLM",
    "mlm": "MaskedLM",
    "multi-label-classification": "MultiLabel",
    "ner": "TokenClassification",
    "qa": "QuestionAnswering",
    "regression": "Regress",
    "sentence-similarity": "Similarity",
    "sentiment-analysis": "Classify",
    "sequence-classification": "Classify",
    "sts": "Similarity",
    "tagging": "TokenClassification",
    "text-classification": "Classify",
    "text-generation": "CausalLM",
}


def own_name(name: str) -> str | None:
    """The dotted name here of another trainer's field; None if there is none."""
    return FIELDS.get(name.casefold().replace("-", "_"))


def suggest_field(name: str, fields: Collection[str]) -> str:
    """ " Did you mean 'lr'?" for the name of a field that a class with `fields` does not have, or ""."""
    own = own_name(name)
    if own is not None and own.rpartition(".")[2] in fields:
        own = own.rpartition(".")[2]
    if own is not None and own.partition(".")[0] in fields:
        return f" Did you mean {own!r}?"
    return suggest(name, fields)
