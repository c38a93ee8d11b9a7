"""Write an ELECTRA and a T5, as small as the tiny encoder: python tests/small_models.py FOLDER

Both read the tiny encoder's tokens; T5's tokenizer also knows the marks of span corruption, and how a text ends.
ELECTRA has the tiny encoder's weights but no head; T5 has none.
"""

import json
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from jaxft.assets import path
from jaxft.tasks.span_corruption import SENTINEL

MARKS = 24  # of 128 tokens 15% in spans of three are six or seven
ELECTRA = {
    "architectures": ["ElectraForPreTraining"],
    "model_type": "electra",
    "hidden_size": 128,
    "embedding_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 512,
    "num_layers": 4,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}


def write(folder: Path) -> None:
    for config in (ELECTRA, T5):
        tokenizer = AutoTokenizer.from_pretrained(path("tiny-encoder"))
        if config is T5:
            tokenizer.add_tokens([SENTINEL.format(number) for number in range(MARKS)])
            tokenizer.eos_token = tokenizer.sep_token
        ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        directory = folder / config["model_type"]
        tokenizer.save_pretrained(directory)
        (directory / "config.json").write_text(json.dumps(config | ids | {"vocab_size": len(tokenizer)}, indent=2))
    stored = load_file(Path(path("tiny-encoder")) / "model.safetensors")
    layers = {name.replace("bert.", "electra.", 1): array for name, array in stored.items() if name[:5] == "bert."}
    save_file(layers, folder / "electra" / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]))
