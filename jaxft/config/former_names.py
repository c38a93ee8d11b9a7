"""Names that classes and fields had in earlier versions, so that runs which these wrote are read."""

from typing import Any

# Former "module:Class" -> today's. What is not here has kept its name.
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
# Today's "module:Class" -> former field -> today's.
FIELDS = {"jaxft.config.run:Config": {"rows": "batching"}}

# Former part of a parameter's path -> today's, in checkpoints.
PARAMETERS = {"beside": "side_branch", "beside_res": "side_branch_res", "distances": "rel_bias"}


def renamed(value: Any) -> Any:
    """JSON of a configuration (config.component.to_json) with today's names for all former ones."""
    if isinstance(value, list):
        return [renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    name = value.get("class")
    name = CLASSES.get(name, name) if isinstance(name, str) else name
    fields = FIELDS.get(name, {}) if isinstance(name, str) else {}
    made = {fields.get(key, key): renamed(item) for key, item in value.items()}
    return made | ({"class": name} if "class" in value else {})
