"""Write 1.1 B random float32 parameters of Llama's shape in 5 files: python tests/large_checkpoint.py FOLDER

The shape is TinyLlama's (Zhang et al. 2024), 4.1 GiB; with the tokenizer that jaxft brings, so that commands take it:

python -m jaxft.bench --config=configs/pretrain_gpt.py:jaxft/assets/brown-genres/train.csv --config.model=FOLDER \
--against=transformers --only=load
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jaxft.assets import path

FILES = 5
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 22,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Of all tensors under their names in the files."""
    width, inner, words = (CONFIG[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    narrow = width // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    layer = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (narrow, width),
        "self_attn.v_proj": (narrow, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    found = {"model.embed_tokens.weight": (words, width)}
    for number in range(CONFIG["num_hidden_layers"]):
        found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return found | {"model.norm.weight": (width,), "lm_head.weight": (words, width)}


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    source = Path(path("tiny-encoder"))
    shutil.copy(source / "tokenizer.json", folder)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "[SEP]"}))
    rng, wanted, weight_map = np.random.default_rng(0), shapes(), {}
    for number, names in enumerate(np.array_split(list(wanted), FILES), 1):
        file = f"model-{number:05d}-of-{FILES:05d}.safetensors"
        tensors = {str(name): 0.02 * rng.standard_normal(wanted[str(name)], np.float32) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]))
