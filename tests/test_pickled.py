"""PyTorch's own files and transformers' former Flax ones: read without executing anything, and like safetensors."""

import io
import os
import pickle
import resource
import shutil
import time
import zipfile
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import torch
import transformers
from conftest import variant
from safetensors.numpy import load_file
from zoo import flax_tree

import jaxft
from jaxft.models.checkpoint import torch_pickle
from jaxft.models.checkpoint.tensors import open_tensors
from jaxft.models.checkpoint.torch_pickle import read_pickled
from jaxft.problems import UserError

FORMATS = {"archive": {}, "row": {"_use_new_zipfile_serialization": False}}
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def state() -> dict[str, torch.Tensor]:
    """Tensors of all kinds: shared, strided, empty, without axes."""
    whole = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    made = {f"of.{dtype}".replace("torch.", ""): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    return made | {
        "whole": whole,
        "same": whole,
        "part": whole[1:4, 2:9],
        "turned": whole.T,
        "every third": whole[:, ::3],
        "repeated": whole[:1, :1].expand(3, 4),
        "nothing": torch.zeros(0, 3),
        "number": torch.tensor(3.5),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_every_kind_of_tensor(options, tmp_path):
    file, tensors = tmp_path / "model.bin", state()
    torch.save(tensors, file, **options)
    found = read_pickled(file)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert str(found[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(found[name].astype(np.float64), numbers(tensor), err_msg=name)
        assert found[name].shape == tuple(tensor.shape) and not (found[name].size and found[name].flags.writeable)


def test_a_state_dict_with_its_versions(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    torch.save(module.state_dict(), tmp_path / "model.bin")  # an OrderedDict with an attribute `_metadata`
    found = read_pickled(tmp_path / "model.bin")
    assert {name: array.tolist() for name, array in found.items()} == {
        name: tensor.tolist() for name, tensor in module.state_dict().items()
    }


class Bomb:
    """Unpickled, it would run a command."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def bombs(file):
    yield pickle.dumps(Bomb(file))
    yield pickle.dumps({"a": torch.zeros(2), "b": Bomb(file)})
    made = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": Bomb(file)}, made)
    yield made.getvalue()
    made = io.BytesIO()
    torch.save({"a": Bomb(file)}, made, _use_new_zipfile_serialization=False)
    yield made.getvalue()
    yield b"c__builtin__\neval\n(S'open(\"" + str(file).encode() + b'", "w")\'\ntR.'
    yield b"cos\nsystem\n(S'touch " + str(file).encode() + b"'\ntR."


def test_nothing_is_executed(tiny_bert, tmp_path):
    for number, content in enumerate(bombs(tmp_path / "executed")):
        directory = shutil.copytree(tiny_bert, tmp_path / str(number))
        (directory / "model.safetensors").unlink()
        (directory / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UserError, match="is not read|is damaged"):
            jaxft.load(str(directory))
        assert not (tmp_path / "executed").exists()
    with pytest.raises(UserError, match=r"asks for \w+.system, which a dict of tensors does not need"):
        read_pickled(directory / "pytorch_model.bin")


def test_numbers_that_overflow_when_multiplied():
    """65 numbers, four apart, in a storage of one: as small numbers, 64 times 4 would be 0."""
    one = torch_pickle.Storage("0", np.float32, 1)
    place = torch_pickle._tensor(one, np.uint8(0), (np.uint8(65),), (np.uint8(4),))
    assert all(type(number) is int for number in (place.start, *place.size, *place.stride))
    with pytest.raises(ValueError, match="reaches beyond its storage"):
        torch_pickle._view(np.zeros(1, np.float32), place)


def test_a_pickle_gets_no_number_format_to_call(tmp_path):
    """Which could make such numbers."""
    (tmp_path / "y.bin").write_bytes(b"\x80\x02}X\x01\x00\x00\x00actorch\nByteStorage\nK\x41\x85Rs.")
    with pytest.raises(UserError, match="TypeError: 'str' object is not callable"):
        read_pickled(tmp_path / "y.bin")


def test_other_things_than_tensors(tmp_path):
    for content, reason in (
        ({"a": 3}, "its entry 'a' is not a tensor"),
        ([torch.zeros(2)], "does not hold a dict of tensors"),
        ({"a": {"b": torch.zeros(2)}}, "its entry 'a' is not a tensor"),
        (torch.nn.Linear(2, 2), "asks for torch.nn.modules.linear.Linear"),
    ):
        torch.save(content, tmp_path / "x.bin")
        with pytest.raises(UserError, match=reason):
            read_pickled(tmp_path / "x.bin")


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_damaged_files(options, tmp_path):
    """Cut off anywhere, or a byte changed anywhere in what is no number: a message, or the same shapes."""
    file = tmp_path / "model.bin"
    torch.save({"a": torch.arange(4.0), "b": torch.arange(6).reshape(2, 3)}, file, **options)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 60):
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError):
            read_pickled(file)
    for place in rng.integers(0, len(whole), 200):
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        file.write_bytes(bytes(broken))
        try:
            assert all(isinstance(array, np.ndarray) for array in read_pickled(file).values())
        except UserError as error:
            assert str(file) in str(error)


def test_a_tensor_beyond_its_storage(tmp_path):
    file = tmp_path / "model.bin"
    torch.save({"a": torch.arange(4.0)}, file)
    with zipfile.ZipFile(file) as old:
        parts = {entry: old.read(entry) for entry in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for name, content in parts.items():
            new.writestr(name, content[:8] if "/data/" in name else content)
    with pytest.raises(UserError, match="a storage has contradictory sizes"):
        read_pickled(file)


# --- what is made to harm ---

LONG = b"\x80\x02"  # the protocol
LAUGHS = LONG + b")q\0" + b"(" + b"h\0" * 9 + b"tq\0" + (b"(" + b"h\0" * 9 + b"tq\0") * 40  # a tuple of 9 ** 41
NAME, KEY = b"X\x01\0\0\0a", b"X\x01\0\0\x000"
STORAGE = b"X\x07\0\0\0storage"
HOSTILE = {
    "a memo of 2 ** 32 places": (LONG + b"}r\xff\xff\xff\xff.", "no tensors"),
    "many tuples in each other": (LONG + b")" + b"\x85" * 300_000 + b".", "does not hold a dict"),
    "and lists": (LONG + b"]" * 300_000 + b"a" * 299_999 + b".", "does not hold a dict"),
    "a key that takes for ever to hash": (LAUGHS + b"}h\0K\1s.", "a key of type tuple"),
    "the same in an OrderedDict": (
        LAUGHS + b"ccollections\nOrderedDict\n]h\0K\1\x86a\x85R.",
        "a key of type tuple",
    ),
    "a persistent id": (LAUGHS + b"h\0Q.", "objects other than storages"),
    "a storage's format": (LAUGHS + b"(" + STORAGE + b"h\0" + NAME * 2 + b"K\1tQ.", "objects other than storages"),
    "a storage's name": (
        LAUGHS + b"(" + STORAGE + b"ctorch\nFloatStorage\nh\0" + NAME + b"K\1tQ.",
        "an invalid name",
    ),
    "marks": (LONG + b"(" * 2_000_001 + b".", "more than 2,000,000 opcodes"),
    "a text longer than the file": (LONG + b"X\xff\xff\xff\x7fa.", "is damaged"),
    "a number longer than the file": (LONG + b"\x8b\xff\xff\xff\x7fa.", "is damaged"),
    "bytes longer than any file": (LONG + b"\x8e" + b"\xff" * 7 + b"\x7fa.", "is damaged"),
    "a tensor of a million axes": (
        LONG
        + b"}"
        + NAME
        + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + STORAGE
        + b"ctorch\nFloatStorage\n"
        + KEY
        + NAME
        + b"K\1tQK\0("
        + b"K\2" * 1_000_000
        + b"tq\0h\0tRs.",
        "more than 64 axes",
    ),
    "a number that repeats 2 ** 40 times": (
        LONG
        + b"}"
        + NAME
        + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + STORAGE
        + b"ctorch\nFloatStorage\n"
        + KEY
        + NAME
        + b"K\1tQK\0"
        + b"J\0\0\x10\0" * 2
        + b"\x86K\0K\0\x86tRs.",
        "repeats 1 numbers",
    ),
    "state of an instance": (LONG + b"(ios\nsystem\n.", "the opcode INST"),
    "an extension": (LONG + b"\x82\1.", "the opcode EXT1"),
    "a registered reducer": (LONG + b"ccopyreg\n_reconstructor\n.", "asks for copyreg._reconstructor"),
    "quantised tensors": (LONG + b"ctorch._utils\n_rebuild_qtensor\n.", "not quantised, sparse, nested"),
}


def archive_of(pickled: bytes, stream, **members: bytes) -> None:
    with zipfile.ZipFile(stream, "w") as made:
        for name, content in {"data.pkl": pickled, "data/0": b"\0" * 4, "version": b"3\n", **members}.items():
            made.writestr(f"archive/{name}", content)


@pytest.mark.parametrize("form", ["archive", "row"])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(case, form, tmp_path):
    """A message within seconds, in memory of the file's order."""
    content, words = HOSTILE[case]
    file = tmp_path / "x.bin"
    if form == "archive":
        archive_of(content, file)
    else:
        head = b"".join(pickle.dumps(part, 2) for part in (torch_pickle.MAGIC, 1001, {"little_endian": True}))
        keys = LONG + b"]" + (KEY + b"a" if KEY in content else b"") + b"."
        file.write_bytes(head + content + keys + b"\1" + b"\0" * 11)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = read_pickled(file)
    except UserError as error:
        assert str(file) in str(error) and words in str(error), error
        assert len(str(error)) < 1000
    else:
        assert words == "no tensors" and found == {}
    assert time.process_time() - started < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_keys_of_a_row_are_texts(tmp_path):
    """The list of storages behind the tensors may hold anything, too."""
    head = b"".join(pickle.dumps(part, 2) for part in (torch_pickle.MAGIC, 1001, {}, {}))
    (tmp_path / "x.bin").write_bytes(head + LAUGHS + b"]h\0a." + b"\1" + b"\0" * 11)
    with pytest.raises(UserError, match="is damaged"):
        read_pickled(tmp_path / "x.bin")


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_every_protocol_of_pickle(options, protocol, tmp_path):
    torch.save(state(), tmp_path / "x.bin", pickle_protocol=protocol, **options)
    found = read_pickled(tmp_path / "x.bin")
    for name, tensor in state().items():
        np.testing.assert_array_equal(found[name].astype(np.float64), numbers(tensor), err_msg=name)


def test_one_flipped_bit_is_found(tmp_path):
    """In an archive the tensors are what they were, or the file is refused: every third byte has its turn."""
    file = tmp_path / "x.bin"
    torch.save({"a": torch.arange(4.0), "b": torch.arange(6).reshape(2, 3), "c": torch.ones(4)}, file)
    whole = file.read_bytes()
    right = {name: array.copy() for name, array in read_pickled(file).items()}
    rng, refused = np.random.default_rng(0), 0
    for place in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        file.write_bytes(broken)
        try:
            found = read_pickled(file)
        except UserError:
            refused += 1
            continue
        assert found.keys() == right.keys(), place
        assert all(np.array_equal(found[name], right[name]) for name in right), place
    assert refused > len(whole) / 9


def test_the_archives_directory_is_checked(tmp_path):
    """Two members of one size whose places are exchanged there, in agreement with their checksums."""
    file = tmp_path / "x.bin"
    torch.save({"a": torch.zeros(4), "b": torch.ones(4)}, file)
    with zipfile.ZipFile(file) as archive:
        first, second = (archive.getinfo(f"{archive.namelist()[0].split('/')[0]}/data/{key}") for key in "01")
    whole = bytearray(file.read_bytes())
    one, other = (whole.rindex(entry.filename.encode()) - 46 for entry in (first, second))
    for start, length in ((16, 4), (42, 4)):  # the checksum, the place of the member
        one_part, other_part = whole[one + start :][:length], whole[other + start :][:length]
        whole[one + start : one + start + length] = other_part
        whole[other + start : other + start + length] = one_part
    file.write_bytes(whole)
    with pytest.raises(UserError, match="the archive's directory and its members disagree"):
        read_pickled(file)


def test_archives_that_unpack_to_much_more(tmp_path):
    file = tmp_path / "x.bin"
    archive_of(b"}.", file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data/1", b"\0" * 50_000_000)
    with pytest.raises(UserError, match="would unpack to 50,000,000 bytes"):
        read_pickled(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("archive/data.pkl", b"}.")
    with pytest.raises(UserError, match="compression is not supported by PyTorch"):
        read_pickled(file)
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive_of(b"}.", file)
        with zipfile.ZipFile(file, "a") as twice:
            twice.writestr("archive/data/0", b"\0" * 4)
    with pytest.raises(UserError, match="two members of the archive have the same name"):
        read_pickled(file)


def test_a_compressed_archive(tmp_path):
    """As another program may have packed it again; PyTorch reads it, too."""
    tensors = {"a": torch.randn(50, 40), "b": torch.arange(7)}
    torch.save(tensors, tmp_path / "stored.bin")
    with zipfile.ZipFile(tmp_path / "stored.bin") as old, zipfile.ZipFile(tmp_path / "x.bin", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    found = read_pickled(tmp_path / "x.bin")
    for name, tensor in torch.load(tmp_path / "x.bin").items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def same_model(directory: Path, other: Path) -> None:
    one, two = jaxft.load(str(directory)), jaxft.load(str(other))
    for path, value in one.params.items():
        np.testing.assert_array_equal(value, two.params[path], err_msg=path)


def as_torch(directory) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in load_file(directory / "model.safetensors").items()}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_model_in_one_file_and_in_shards(families, family, tmp_path, one_device):
    whole = shutil.copytree(families[family], tmp_path / "whole")
    torch.save(as_torch(whole), whole / "pytorch_model.bin")
    (whole / "model.safetensors").unlink()
    same_model(families[family], whole)
    shards = shutil.copytree(families[family], tmp_path / "shards")
    tensors, names = as_torch(shards), ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    placed = {tensor: names[number % 2] for number, tensor in enumerate(tensors)}
    for name in names:
        torch.save({tensor: tensors[tensor] for tensor in placed if placed[tensor] == name}, shards / name)
    (shards / "pytorch_model.bin.index.json").write_text('{"weight_map": ' + str(placed).replace("'", '"') + "}")
    (shards / "model.safetensors").unlink()
    same_model(families[family], shards)
    (shards / names[1]).unlink()
    with pytest.raises(UserError, match="which is not there"):
        jaxft.load(str(shards))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_former_flax_models(families, family, tmp_path, one_device):
    directory = shutil.copytree(families[family], tmp_path / "flax")
    tree = flax_tree(load_file(directory / "model.safetensors"))
    (directory / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    (directory / "model.safetensors").unlink()
    same_model(families[family], directory)
    content = (directory / "flax_model.msgpack").read_bytes()
    (directory / "flax_model.msgpack").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged"):
        jaxft.load(str(directory))
    (directory / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize({"a": 3}))
    with pytest.raises(UserError, match="holds a, which is not an array"):
        jaxft.load(str(directory))


@pytest.mark.parametrize(
    "content",
    [
        b"\x91" * 2_000_000 + b"\0",  # lists in each other
        b"\xdd\0\x1e\0\0" * 900 + b"\0" * 2_000_000,  # each of two million places
        b"\xc9\xff\xff\xff\xff\1" + b"\0" * 99,  # an array longer than the file
        b"\x81\xa1a\xc7\x14\1\x93\x91\1\xa6object\xc4\x08" + b"\1" * 8,  # of Python objects
    ],
)
def test_hostile_msgpack(content, tmp_path):
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="is damaged"):
        open_tensors(tmp_path)
    assert time.process_time() - started < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_a_directory_without_weights(tiny_bert, tmp_path):
    directory = variant(tiny_bert, tmp_path / "empty")
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights: none of model.safetensors, .*flax_model.msgpack"):
        jaxft.load(str(directory))


@pytest.mark.slow
def test_a_real_model_from_its_bin(rxnmapper):
    """Known logits of a reaction, and those of PyTorch at every token; its pooler is no part of this head."""
    ids = [[12, 16, 16, 17, 22, 19, 18, 19, 24, 19, 16, 16, 29, 16, 16, 17, 22, 19, 18, 19, 16, 16, 13]]
    ours = jaxft.load(str(rxnmapper))
    found = np.asarray(ours(ids).logits)
    np.testing.assert_allclose(found[0, 0, :4], [-7.7305, -13.9728, -15.3807, -16.0848], rtol=0, atol=1e-4)
    with torch.no_grad():
        expected = transformers.AlbertForMaskedLM.from_pretrained(rxnmapper)(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
