"""Names of classes and fields in earlier versions, so that runs written by these versions can be read."""

from typing import Any

# Former "module:Class" -> present one. Classes that are not here have their former names.
CLASSES = {
    "jaxft.config:Config": "jaxft.config.run:Config",
    "jaxft.config:Eval": "jaxft.config.run:Eval",
    "jaxft.config:Mesh": "jaxft.config.run:Mesh",
    "jaxft.config:Save": "jaxft.config.run:Save",
    "jaxft.data.rows:Chunk": "jaxft.data.batching:Chunk",
    "jaxft.data.rows:Pack": "jaxft.data.batching:Pack",
    "jaxft.data.rows:Pad": "jaxft.data.batching:Pad",
    "jaxft.tasks.answer:Answer": "jaxft.tasks.question_answering:QuestionAnswering",
    "jaxft.tasks.choose:Choose": "jaxft.tasks.multiple_choice:MultipleChoice",
    "jaxft.tasks.corrupted:SpanCorruption": "jaxft.tasks.span_corruption:SpanCorruption",
    "jaxft.tasks.embed:Contrast": "jaxft.tasks.contrastive_embedding:ContrastiveEmbedding",
    "jaxft.tasks.embed:Similarity": "jaxft.tasks.contrastive_embedding:Similarity",
    "jaxft.tasks.embed:Triplet": "jaxft.tasks.contrastive_embedding:Triplet",
    "jaxft.tasks.replaced:ReplacedTokens": "jaxft.tasks.replaced_tokens:ReplacedTokens",
    "jaxft.tasks.tag:Tag": "jaxft.tasks.token_classification:TokenClassification",
    "jaxft.tasks.verify:Verify": "jaxft.tasks.grouped_verification:GroupedVerification",
}
# Present "module:Class" -> former field -> present field.
FIELDS: dict[str, dict[str, str]] = {"jaxft.config.run:Config": {"rows": "batching"}}

# Former part of a parameter's path -> today's, in checkpoints.
PARAMETERS = {"beside": "side_branch", "beside_res": "side_branch_res", "distances": "rel_bias"}


def renamed(value: Any) -> Any:
    """JSON of a configuration (config.component.to_json) with present names in place of former ones."""
    if isinstance(value, list):
        return [renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    name = value.get("class")
    name = CLASSES.get(name, name) if isinstance(name, str) else name
    fields = FIELDS.get(name, {}) if isinstance(name, str) else {}
    made = {fields.get(key, key): renamed(item) for key, item in value.items()}
    return made | ({"class": name} if "class" in value else {})


def present_field(cls: type, field: str) -> str | None:
    """The present name of a former field of a class; None if it is not a former one."""
    return FIELDS.get(f"{cls.__module__}:{cls.__qualname__}", {}).get(field)
