"""Every family with every head against transformers in PyTorch, which gets each text alone and without padding.

jaxft gets five texts in four rows: one that fills its row, padding on the right, padding on the left, and two in a row.
"""

import json
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from batches import TARGETS, batch_of, inputs_of, of_texts, signals_of, targets_of
from safetensors.numpy import load_file, save_file
from variants import KNOWN_GAPS, SCHEMES, VARIANTS
from zoo import FAMILIES, PAIRS, SIGNALS, expected_of, heads_of, make, model_type, needs

import jaxft
from jaxft.models.checkpoint.load import find_weights, place
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.checkpoint.save import save_model
from jaxft.models.heads import KINDS
from jaxft.models.model import Model
from jaxft.models.params import bind, roles, shardings, variables
from jaxft.parallel.mesh import make_mesh
from jaxft.problems import UserError
from jaxft.tasks.clip_loss import clip_loss

CLASSES = 5


@pytest.fixture(autouse=True)
def single(one_device):
    """Load onto one device: smaller programs, quicker to compile."""


def loss_of(values, targets, xp):
    """Of scores their cross entropy, of hidden states the squared distance to the targets; summed over all texts."""
    if targets[0].ndim == 2:
        return sum(xp.sum((value - target) ** 2) for value, target in zip(values, targets, strict=True))
    if xp is torch:
        entropy = torch.nn.functional.cross_entropy
        return sum(entropy(value, target, reduction="sum") for value, target in zip(values, targets, strict=True))
    logs = [jax.nn.log_softmax(value) for value in values]
    return -sum(jnp.take_along_axis(log, t[:, None], 1).sum() for log, t in zip(logs, targets, strict=True))


@pytest.mark.parametrize("family, head", PAIRS, ids=map("-".join, PAIRS))
def test_a_head_of_a_family(family, head, tmp_path):
    check(make(family, head, tmp_path / "a"), head, tmp_path)


@pytest.mark.parametrize("family, head, more", VARIANTS.values(), ids=VARIANTS)
def test_a_variant(family, head, more, tmp_path):
    theirs = make(family, head, tmp_path / "a", **more)
    if more.get("alibi"):
        theirs.config._attn_implementation = "sdpa"  # their other one adds what falls with the distance twice
    check(theirs, head, tmp_path)


# Tensors of a checkpoint that transformers makes only from another one.
ADDED = {
    "t5": {"lm_head.weight": (125, 24)},  # in spite of config.json not tied
    "umt5": {"lm_head.weight": (125, 24)},
    "bart": {"final_logits_bias": (1, 125)},  # not 0
}


@pytest.mark.parametrize("family", ADDED)
def test_tensors_that_a_new_model_has_not(family, tmp_path):
    make(family, "seq2seq-lm", tmp_path / "a")
    rng, file = np.random.default_rng(5), tmp_path / "a" / "model.safetensors"
    more = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in ADDED[family].items()}
    save_file(load_file(file) | more, file, {"format": "pt"})
    found = type(make(family, "seq2seq-lm", tmp_path / "unused")).from_pretrained(tmp_path / "a")
    check(found.eval(), "seq2seq-lm", tmp_path)


def check(theirs, head, tmp_path):
    """Hidden states, logits, the gradient of every parameter, and the way back."""
    ours = jaxft.load(str(tmp_path / "a"))
    assert ours.arch.kind == head
    inputs = inputs_of(ours.arch.spec, head)
    batch, reads, places = inputs.batch, inputs.reads, inputs.places
    expected = expected_of(theirs, ours.arch.spec.input_side.embed.argument, inputs)
    pairs = [pair for _, _, pair in expected if pair is not None]
    if head == "pretraining":
        batch["pair_at"] = batch_of("first")[1]["at"]
    rng = np.random.default_rng(1)
    chosen = 0 if head == "none" else 1  # what the loss is made of
    read = [values[chosen] for values in expected] + pairs
    squares = head == "none" or read[0].shape[-1] == 1  # of a single score the cross entropy is always 0
    shapes = [values.shape for values in read]
    targets = [np.float32(rng.standard_normal(s)) if squares else rng.integers(0, s[-1], s[0]) for s in shapes]
    loss = loss_of(read, [torch.tensor(target) for target in targets], torch)
    loss.backward()

    def objective(params):
        out = bind(ours.model, params)(batch)
        values = of_texts(out.hidden, None, places) if head == "none" else of_texts(out.logits, reads, places)
        values += of_texts(out.pair_logits, "first") if pairs else []
        return loss_of(values, targets, jnp), (out.hidden, values)

    program = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (value, (hidden, values)), gradients = program(ours.params)
    for found, (wanted, _, _) in zip(of_texts(np.asarray(hidden), None, places), expected, strict=True):
        close(found, wanted, "hidden states")
    for found, wanted in zip(values, read, strict=True):
        close(found, wanted, "what the loss reads")
    assert float(value) == pytest.approx(loss.item(), rel=1e-5)
    check_way_back(theirs, ours, tmp_path)
    check_gradients(theirs, ours, gradients, tmp_path)


def close(found, wanted: torch.Tensor, what: str):
    """Within 1e-5 of the largest."""
    wanted = wanted.detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()), err_msg=what)


def check_gradients(theirs, ours, gradients, directory):
    """Both sides write their gradients like weights, so that they have the names and layouts of a checkpoint."""
    save_model(directory / "ours", ours.model, gradients, ours.pretrained, ours.arch)
    fixed = {name for name, _ in theirs.named_buffers()}
    fixed |= {name for name, parameter in theirs.named_parameters() if not parameter.requires_grad}
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(directory / "theirs")
    found, wanted = (load_file(directory / side / "model.safetensors") for side in ("ours", "theirs"))
    assert wanted.keys() == found.keys()
    wanted = {name: gradient for name, gradient in wanted.items() if name not in fixed}
    # A key's bias shifts all scores of a query alike, so its gradient is 0: there only the noise can be compared.
    noise = 1e-6 * max(np.abs(gradient).max() for gradient in wanted.values())
    for name, gradient in wanted.items():
        tolerance = max(1e-4 * np.abs(gradient).max(), noise)
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=tolerance, err_msg=name)


def check_way_back(theirs, ours, tmp_path):
    """Every tensor comes back byte-equal, and transformers misses nothing."""
    ours.save(tmp_path / "b")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert before.keys() == after.keys()
    assert all(array.tobytes() == after[name].tobytes() for name, array in before.items())
    _, info = type(theirs).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_texts_beside_images(tmp_path):
    """How near each of five texts is to each of three images, the loss of the nearest pairs, and its gradients."""
    theirs = make("clip", "none", tmp_path / "a")
    rng = np.random.default_rng(0)
    texts, batch = targets_of()
    texts = [
        np.append(ids[:-1], theirs.text_model.eos_token_id) for ids in texts
    ]  # by which transformers finds the end
    batch["at"] = np.zeros((4, 2), np.int32)
    for ids, (row, start, length) in zip(texts, TARGETS, strict=True):
        batch["decoder_tokens"][row, start : start + length] = ids
        batch["at"][row, int(start > 0 and row == 3)] = start + length - 1
    pixels = rng.standard_normal((5, 3, 13, 13)).astype(np.float32)
    batch |= {"pixels": pixels, "segments": np.ones((5, 10), np.int32), "positions": np.zeros((5, 10), np.int32)}
    rows = [theirs.get_text_features(torch.tensor(ids)[None].long()).pooler_output[0] for ids in texts]
    images = theirs.get_image_features(torch.tensor(pixels)).pooler_output
    near = [row / row.norm() @ (images / images.norm(dim=1, keepdim=True)).T for row in rows]
    expected = theirs.logit_scale.exp() * torch.stack(near)
    entropy = torch.nn.functional.cross_entropy
    loss = (entropy(expected, torch.arange(5)) + entropy(expected.T, torch.arange(5))) / 2
    loss.backward()
    ours = jaxft.load(str(tmp_path / "a"))

    def objective(params):
        logits = jnp.stack([row[0] for row in of_texts(bind(ours.model, params)(batch).logits, "last", TARGETS)])
        mean = clip_loss(logits)
        return mean.total / mean.count, logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(ours.params)
    close(logits, expected, "logits")
    assert float(value) == pytest.approx(loss.item(), rel=1e-5)
    longest = max(map(len, texts))
    ids = np.array([np.pad(text, (0, longest - len(text)), constant_values=9) for text in texts])
    mask = np.arange(longest) < np.array([len(text) for text in texts])[:, None]
    close(ours(ids, mask, pixel_values=pixels[:3]).logits, expected[:, :3], "logits of padded texts")
    with torch.no_grad():
        same = theirs(torch.tensor(ids[1:2, : len(texts[1])]).long(), torch.tensor(pixels)).logits_per_text
    close(ours(ids[1:2], mask[1:2], pixel_values=pixels).logits, same, "logits of one text")
    check_gradients(theirs, ours, gradients, tmp_path)


@pytest.mark.parametrize("family", ["bert", "deberta", "xlnet"])
def test_types_of_texts(family, tmp_path):
    """Of pairs of texts, whose tokens have types."""
    theirs = make(family, "none", tmp_path)
    rng = np.random.default_rng(2)
    ids, types = rng.integers(5, 100, (2, 13)), np.array([[0] * 6 + [1] * 7, [1, 0, 1] + [0] * 10])
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), token_type_ids=torch.tensor(types)).last_hidden_state
    ours = jaxft.load(str(tmp_path))
    close(ours(ids, token_type_ids=types).hidden, expected, "hidden states")
    assert np.abs(ours(ids).hidden - expected.numpy()).max() > 1e-2


@pytest.mark.parametrize("length", [6, 13])  # the model was trained for 8
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_rotary_positions(scheme, length, tmp_path):
    theirs = make("llama", "causal-lm", tmp_path, rope_parameters=scheme, max_position_embeddings=8)
    ids = np.random.default_rng(0).integers(5, 100, (2, length))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits
    close(np.asarray(jaxft.load(str(tmp_path))(ids).logits), expected, "logits")


def test_settings_of_rotary_positions_that_nothing_reads(tmp_path):
    make("llama", "causal-lm", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported, only 1.0"),
        ({"mrope_section": [1, 2]}, "rope_parameters has 'mrope_section', which jaxft does not read"),
        (
            {
                "rope_type": "longrope",
                "short_factor": [1.0],
                "long_factor": [1.0] * 4,
                "factor": 2.0,
                "original_max_position_embeddings": 8,
            },
            "short_factor of rope_parameters has 1 numbers, expected 4",
        ),
    ):
        settings = {**config, "rope_parameters": {**config["rope_parameters"], **change}}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        with pytest.raises(UserError, match=re.escape(message)):
            jaxft.load(str(tmp_path))


def test_settings_that_transformers_does_not_know(tmp_path, caplog):
    """They are logged; but one by which its attention masks go is refused, and so is one that it declares."""
    make("llama", "causal-lm", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"unsloth_version": "2025.1", "_num_labels": 3}))
    with caplog.at_level("INFO", "jaxft"):
        jaxft.load(str(tmp_path))
    assert "config.json: _num_labels, unsloth_version: not known to transformers, ignored" in caplog.text
    for name, value in (("is_causal", False), ("quantization_config", {"bits": 4})):
        (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(UserError, match=f"config.json: {name}=.* is not read by jaxft's llama"):
            jaxft.load(str(tmp_path))


def test_settings_of_a_part_that_nothing_reads(tmp_path):
    make("clip", "none", tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["vision_config"]["quantization_config"] = {"bits": 4}
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json: quantization_config=.* is not read by jaxft's clip_vision_model"):
        jaxft.load(str(tmp_path))


def test_a_head_whose_backbone_has_another_prefix(tmp_path):
    """Answers of Llama and its kin: transformers calls the backbone `transformer.` there, `model.` elsewhere."""
    make("llama", "causal-lm", tmp_path)
    model = jaxft.load(str(tmp_path), head="question-answering")
    assert model.report.new == ["head.out.bias", "head.out.kernel"] and model.report.unused == ["lm_head.weight"]
    model.save(tmp_path / "out")
    found, stored = (load_file(path / "model.safetensors") for path in (tmp_path / "out", tmp_path))
    name = "embed_tokens.weight"
    np.testing.assert_array_equal(found["transformer." + name], stored["model." + name])


def rates_of_config(config) -> list[str]:
    """Names of its dropout rates."""
    strange = {"classifier_dropout", "summary_first_dropout", "summary_last_dropout"}
    return [name for name in config.to_dict() if "drop" in name and "layerdrop" not in name and name not in strange]


def rates_of(part) -> set[float]:
    """Of dropout, anywhere in a part of ours."""
    if isinstance(part, tuple):
        return set().union(*map(rates_of, part))
    if not is_dataclass(part):
        return set()
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    own = {values.pop(name) for name in list(values) if name.endswith("dropout")}
    return own.union(*map(rates_of, values.values())) - {0.0, None}


# Rates that transformers does not use either, or that are 0 in all that is published.
IDLE = {"phi3": {"embd_pdrop"}, "modernbert": {"mlp_dropout"}}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_dropout_rate_is_read(family, tmp_path):
    """Each of them set to a number of its own, they turn up in the model, with one head or another."""
    make(family, "none", tmp_path)
    file = tmp_path / "config.json"
    names = set(rates_of_config(transformers.AutoConfig.from_pretrained(tmp_path))) - IDLE.get(family, set())
    rates = {name: 0.2 + 0.01 * number for number, name in enumerate(sorted(names))}
    config, found = json.loads(file.read_text()) | rates, set()
    for head in heads_of(family):
        file.write_text(json.dumps(config | needs(family, head)))
        arch = architecture(open_pretrained(str(tmp_path)), head, 3)
        found |= rates_of((arch.spec, arch.head))
    assert {name for name, rate in rates.items() if rate not in found} == set()


@pytest.mark.parametrize("family", ["bert", "deberta_v2", "t5", "whisper", "xlnet"])
def test_one_rate_for_all_dropout(family, tmp_path):
    """Of a run. Where an architecture has no dropout it gets none, not within an MLP of BERT's either."""
    make(family, "none", tmp_path)
    arch = architecture(open_pretrained(str(tmp_path)), "none", 3, dropout=0.37)
    assert rates_of((arch.spec, arch.head)) == {0.37}
    assert arch.spec.layers[0].mlp.dropout == (None if family in ("bert", "deberta_v2") else 0.37)


@pytest.mark.parametrize("family", [family for family, head in PAIRS if head == "multiple-choice"])
def test_dropout_before_the_scores_of_choices(family, tmp_path):
    """Its rate is read from the setting that transformers reads."""
    names = ("hidden_dropout_prob", "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout")
    rates = {name: 0.2 + 0.01 * number for number, name in enumerate((*names, "summary_last_dropout"))}
    known = transformers.AutoConfig.for_model(model_type(family)).to_dict()
    theirs = make(family, "multiple-choice", tmp_path, **{name: r for name, r in rates.items() if name in known})
    # The dropout of the model itself or of its summary, not of its backbone.
    last = [module for name, module in theirs.named_modules() if re.fullmatch(r"drop(out)?|.*last_dropout", name)]
    assert architecture(open_pretrained(str(tmp_path))).head.dropout == last[0].p


def test_a_mean_needs_what_is_at_every_place(tmp_path):
    make("modernbert", "sequence-classification", tmp_path, classifier_pooling="mean")
    arch = architecture(open_pretrained(str(tmp_path)))
    assert Model(arch.spec, arch.head, hidden="read").hidden == "all"
    assert Model(arch.spec, replace(arch.head, mean=False), hidden="read").hidden == "read"


# Settings of heads under which the scores would be others: (family, setting, value, message).
OTHER_HEADS = [
    ("electra", "summary_type", "last", "summary_type='last' is not supported, only 'first'"),
    ("electra", "summary_use_proj", False, "summary_use_proj=False is not supported, only True"),
    ("electra", "summary_activation", "softsign", "the activation 'softsign' is not supported"),
    ("modernbert", "classifier_activation", "softsign", "the activation 'softsign' is not supported"),
]


@pytest.mark.parametrize("family, name, value, message", OTHER_HEADS, ids=[f"{f}-{n}" for f, n, _, _ in OTHER_HEADS])
def test_heads_that_are_not_implemented(family, name, value, message, tmp_path):
    make(family, "multiple-choice", tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(UserError, match=re.escape(message)):
        jaxft.load(str(tmp_path))


TABLES_OF_TOKENS = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"]


@pytest.mark.parametrize("stored", [TABLES_OF_TOKENS, TABLES_OF_TOKENS[1:], TABLES_OF_TOKENS[2:]], ids=len)
@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("family, own", [("bart", False), ("t5", False), ("t5", True)])
def test_copies_of_the_table_of_tokens(family, own, prefix, stored, tmp_path):
    """Files hold one or several, with the backbone's prefix or without; beside them an output matrix or none."""
    make(family, "seq2seq-lm", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("model."): array for name, array in load_file(file).items()}
    prefix, array = prefix if family == "bart" else "", tensors.pop("shared.weight")
    tensors = {prefix + name if "." in name else name: array for name, array in tensors.items()}
    tensors |= {f"{prefix}{name}.weight": array for name in stored} | ({"lm_head.weight": array + 1} if own else {})
    save_file(tensors, file, {"format": "pt"})
    for head in ("seq2seq-lm", "sequence-classification", "none"):
        pretrained = open_pretrained(str(tmp_path))
        arch = architecture(pretrained, head, 3)
        assert head != "seq2seq-lm" or arch.head.tied != own
        views, report = find_weights(Model(arch.spec, arch.head), pretrained, arch, "pretrained")
        np.testing.assert_array_equal(views["embed.tokens.embedding"], array)
        assert not [name for name in report.new if not name.startswith("head.")]
    other = f"{prefix}{stored[-1]}.weight"
    save_file(tensors | {other: array + 2}, file, {"format": "pt"})
    if len(stored) > 1:
        with pytest.raises(UserError, match=re.escape(f"{other} differs from ")):
            find_weights(Model(arch.spec, arch.head), pretrained, arch, "pretrained")


def test_stored_positions_that_are_computed(tmp_path):
    make("m2m_100", "none", tmp_path)
    file = tmp_path / "model.safetensors"
    more = {f"{side}.embed_positions.weights": np.ones((66, 24), np.float32) for side in ("encoder", "decoder")}
    save_file(load_file(file) | more, file, {"format": "pt"})
    assert jaxft.load(str(tmp_path)).report.unused == []


def test_a_decoder_without_a_first_token(tmp_path):
    """It is needed only where the decoder reads the text again."""
    make("bart", "seq2seq-lm", tmp_path, decoder_start_token_id=None)
    jaxft.load(str(tmp_path))
    with pytest.raises(UserError, match="config.json has no decoder_start_token_id"):
        jaxft.load(str(tmp_path), head="sequence-classification")


def test_a_language_model_that_sees_what_it_predicts(tmp_path):
    """An encoder's attention under a causal language model, and the other way round."""
    make("roberta", "causal-lm", tmp_path / "a")
    make("electra", "masked-lm", tmp_path / "b")
    assert all(layer.attn.causal for layer in architecture(open_pretrained(str(tmp_path / "a")), "none").spec.layers)
    for name, head in (("a", "masked-lm"), ("b", "causal-lm")):
        with pytest.raises(UserError, match=f"is_decoder={head == 'masked-lm'} is not supported"):
            jaxft.load(str(tmp_path / name), head=head)


def test_a_decoder_alone_is_no_model_of_both(tmp_path):
    make("bart", "causal-lm", tmp_path)
    with pytest.raises(UserError, match="is_decoder=True is not supported, only False: this head needs"):
        jaxft.load(str(tmp_path), head="seq2seq-lm")


def test_a_sum_of_all_layers(tmp_path):
    make("whisper", "audio-classification", tmp_path, use_weighted_layer_sum=True)
    with pytest.raises(UserError, match="use_weighted_layer_sum=True is not supported"):
        jaxft.load(str(tmp_path))


def test_a_convolution_without_a_middle(tmp_path):
    make("deberta_v2", "none", tmp_path, conv_kernel_size=4)
    with pytest.raises(UserError, match="conv_kernel_size=4, expected an odd number"):
        jaxft.load(str(tmp_path))


def test_distances_that_nothing_reads(tmp_path):
    make("deberta_v2", "none", tmp_path, pos_att_type=[])
    with pytest.raises(UserError, match="pos_att_type names neither c2p nor p2c"):
        jaxft.load(str(tmp_path))


def test_pairs_where_only_what_is_read_is_computed(tmp_path):
    """Masked tokens and the beginnings of two texts a row, whose last layer is computed nowhere else."""
    make("bert", "pretraining", tmp_path)
    ours, batch = jaxft.load(str(tmp_path)), batch_of("first")[1]
    batch |= {"pair_at": batch["at"], "at": np.array([[2, 9, 5], [1, 0, 8], [4, 7, 12], [1, 6, 11]])}
    pretrained = open_pretrained(str(tmp_path))
    read = Model(ours.arch.spec, ours.arch.head, hidden="read")
    views, _ = find_weights(read, pretrained, ours.arch, "pretrained")
    params = place(read, views, shardings(read, ours.mesh), dict.fromkeys(variables(read), jnp.float32), seed=0)
    found, wanted = bind(read, params)(batch), bind(ours.model, ours.params)(batch)
    assert found.logits.shape == (4, 3, 125) and found.pair_logits.shape == (4, 2, 2)
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.pair_logits, wanted.pair_logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_backbone_of_a_model_with_any_head(family, tmp_path):
    """It is taken from each of the family's checkpoints; what is left over are the tensors of that head."""
    for head in heads_of(family):  # "none" comes first
        theirs = make(family, head, tmp_path / head)
        pretrained = open_pretrained(str(tmp_path / head))
        if head in {one.head for one in pretrained.family.one_sided}:
            with pytest.raises(UserError, match="the checkpoint lacks|this head needs encoder and decoder"):
                jaxft.load(str(tmp_path / head), head="none")
            continue
        arch = architecture(pretrained, "none")
        _, report = find_weights(Model(arch.spec, arch.head), pretrained, arch, "pretrained")
        prefix, stored = theirs.base_model_prefix + ".", load_file(tmp_path / head / "model.safetensors").keys()
        if head == "none":
            backbone = stored
        assert set(report.unused) == {name for name in stored if name.removeprefix(prefix) not in backbone}


def test_images_of_a_model_that_compares(tmp_path):
    """A classifier takes the tower of images, with its norm, from CLIP's two towers, and transformers reads it."""
    make("clip", "none", tmp_path / "whole")
    ours = jaxft.load(str(tmp_path / "whole"), head="image-classification")
    stored = load_file(tmp_path / "whole" / "model.safetensors")
    assert ours.report.new == ["head.out.bias", "head.out.kernel"]
    assert set(ours.report.unused) == {name for name in stored if not name.startswith("vision_model.")}
    ours.save(tmp_path / "half")
    found, info = transformers.CLIPForImageClassification.from_pretrained(tmp_path / "half", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, values in found.vision_model.state_dict(prefix="vision_model.").items():
        np.testing.assert_array_equal(values, stored[name])


HALVES = {
    ("t5", "token-classification"): "decoder.",
    ("bart", "causal-lm"): "encoder.",
    ("marian", "causal-lm"): "encoder.",
    ("whisper", "causal-lm"): "encoder.",
    ("whisper", "audio-classification"): "decoder.",
}


@pytest.mark.parametrize("family, head", HALVES, ids=map("-".join, HALVES))
def test_one_side_of_a_whole_model(family, head, tmp_path):
    """It is taken from the model of both; what is left over is the other side, and transformers reads what is saved."""
    theirs = make(family, "none", tmp_path / "whole")
    ours = jaxft.load(str(tmp_path / "whole"), head=head)
    stored = load_file(tmp_path / "whole" / "model.safetensors")
    assert set(ours.report.unused) == {name for name in stored if name.startswith(HALVES[family, head])}
    assert all(name.startswith("head.") for name in ours.report.new)
    ours.save(tmp_path / "half")
    found, info = getattr(transformers, heads_of(family)[head]).from_pretrained(
        tmp_path / "half", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    side, state = {"encoder.": "decoder.", "decoder.": "encoder."}[HALVES[family, head]], found.state_dict()
    for name, tensor in theirs.state_dict().items():
        if name.startswith(side):
            assert torch.equal(next(value for key, value in state.items() if key.endswith(name)), tensor), name


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_devices_compute_what_one_does(family, tmp_path):
    """Rows over two, weights over two, heads, MLPs and vocabulary over two: the same loss and gradients."""
    heads = heads_of(family)
    head = next((head for head in ("masked-lm", "seq2seq-lm", "causal-lm") if head in heads), "none")
    make(family, head, tmp_path)
    ours = jaxft.load(str(tmp_path))
    embed, decodes = (ours.arch.spec.encoder or ours.arch.spec).embed, ours.arch.spec.encoder is not None
    batch = signals_of(embed, decodes)[0] if family in SIGNALS else batch_of(None)[1]
    if head == "seq2seq-lm" and family not in SIGNALS:
        batch |= targets_of()[1]

    def loss(params):
        out = bind(ours.model, params)(batch)
        present = batch.get("decoder_segments", batch["segments"])[..., None] > 0
        return jnp.sum(jnp.square(jnp.where(present, out.hidden if head == "none" else out.logits, 0.0)))

    params = jax.tree.map(np.asarray, ours.params)
    program = jax.value_and_grad(loss)
    expected = jax.jit(program)(params)
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings(ours.model, mesh))
        assert any(not array.sharding.is_fully_replicated for array in placed.values())
        found = jax.jit(program)(placed)
    noise = 1e-6 * max(np.abs(gradient).max() for gradient in expected[1].values())
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-5)
    for name, gradient in expected[1].items():
        tolerance = max(1e-5 * np.abs(gradient).max(), noise)
        np.testing.assert_allclose(found[1][name], gradient, rtol=0, atol=tolerance, err_msg=name)


TABLES = ["bert", "camembert", "gpt2", "gpt_neo", "opt", "roberta"]  # of positions


@pytest.mark.parametrize("family", TABLES)
def test_the_longest_text(family, tmp_path):
    """As many tokens as jaxft allows PyTorch takes, and no more."""
    theirs = make(family, "none", tmp_path)
    longest = architecture(open_pretrained(str(tmp_path))).spec.max_positions
    ids = torch.full((1, longest + 1), 5)
    theirs(ids[:, :longest])
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        theirs(ids)


def test_every_head_of_transformers_is_here():
    """Of the heads that jaxft knows, each family has all that transformers has for it, but for those listed."""
    missing = set()
    for family in FAMILIES:
        stem = heads_of(family)["none"].removesuffix("Model")
        there = {head for head, name in KINDS.items() if hasattr(transformers, name.format(stem))}
        there |= {"causal-lm"} if hasattr(transformers, stem + "LMHeadModel") else set()
        missing |= {(family, head) for head in there - heads_of(family).keys()}
    assert missing == KNOWN_GAPS.keys()


# What the parameters are, by the last part of their names; any other is "other".
ROLES = {"kernel": "kernel", "embedding": "embedding", "scale": "norm", "bias": "bias"}
ROLES |= dict.fromkeys(("distance_bias", "type_bias"), "bias")


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_of_every_family(family, tmp_path):
    """By them weight decay, Muon and BitFit choose."""
    head = next(head for head in heads_of(family) if head != "none")
    make(family, head, tmp_path)
    arch = architecture(open_pretrained(str(tmp_path)), head, CLASSES)
    found = roles(Model(arch.spec, arch.head))
    assert found == {name: ROLES.get(name.rpartition(".")[2], "other") for name in found} and len(found) > 9


def test_the_readme_says_how_many():
    root = Path(__file__).parent.parent
    assert f"So far: {len(FAMILIES)} families" in (root / "README.md").read_text()
    assert f"{len(FAMILIES)} families, {len(PAIRS)} pairs of family and head" in (root / "docs/results.md").read_text()


def test_the_page_says_what_is_tested():
    from families_page import PAGE, page

    assert PAGE.read_text() == page(), "python tests/families_page.py writes it"
