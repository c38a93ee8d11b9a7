"""config.json: a setting that nothing reads is refused, or logged where transformers does not know it either; every
spelling of one that is read means the same."""

import json
import re
import shutil

import pytest
from conftest import variant

import jaxft
from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.problems import UserError

REFUSED = {
    ("bert", "position_embedding_type"): "relative_key",
    ("bert", "is_decoder"): True,
    ("gpt2", "scale_attn_by_inverse_layer_idx"): True,
    ("gpt2", "scale_attn_weights"): False,
    ("llama", "is_causal"): False,  # not declared by its configuration, but its masks go by it
    ("llama", "quantization_config"): {"bits": 4},
}
# What neither transformers' configuration nor its model knows: there too the model is the same without it.
UNKNOWN = {
    ("bert", "rotary_value"): True,
    ("gpt2", "alibi_slopes"): 8,
    ("llama", "sliding_window"): 16,
    ("llama", "embedding_multiplier"): 12.0,
    ("llama", "qk_norm"): "rms",
}


@pytest.mark.parametrize("family, setting", REFUSED, ids=map(".".join, REFUSED))
def test_settings_that_nothing_reads(families, family, setting, tmp_path):
    directory = tmp_path / "a"
    variant(families[family], directory, config={setting: REFUSED[family, setting]})
    with pytest.raises(UserError, match=re.escape(f"config.json: {setting}={REFUSED[family, setting]!r}")):
        jaxft.load(str(directory))


@pytest.mark.parametrize("family, setting", UNKNOWN, ids=map(".".join, UNKNOWN))
def test_settings_that_transformers_does_not_know(families, family, setting, tmp_path, caplog):
    directory = tmp_path / "a"
    variant(families[family], directory, config={setting: UNKNOWN[family, setting]})
    with caplog.at_level("INFO", "jaxft"):
        found = architecture(open_pretrained(str(directory))).spec
    assert f"config.json: {setting}: not known to transformers, ignored" in caplog.text
    assert found == architecture(open_pretrained(str(families[family]))).spec


def with_rope(directory, target, **settings):
    shutil.copytree(directory, target)
    config = json.loads((target / "config.json").read_text())
    del config["rope_parameters"]
    (target / "config.json").write_text(json.dumps(config | settings))
    return architecture(open_pretrained(str(target))).spec.layers[0].attn.rotary


def test_unsupported_rotary_types(tiny_llama, tmp_path):
    rope = {"rope_type": "proportional", "rope_theta": 500.0, "factor": 2.0}
    with pytest.raises(UserError, match="rope_type='proportional' is not supported, only default, linear, dynamic"):
        with_rope(tiny_llama, tmp_path / "a", rope_parameters=rope)


def test_rotary_settings_of_transformers_4(tiny_llama, tmp_path):
    """There they were `rope_theta` and `rope_scaling`, the latter with `type` or `rope_type`."""
    scaling = {"factor": 3.0}
    new = with_rope(tiny_llama, tmp_path / "a", rope_parameters={"rope_type": "linear", "rope_theta": 5e2, **scaling})
    for number, key in enumerate(("type", "rope_type")):
        old = with_rope(tiny_llama, tmp_path / str(number), rope_theta=5e2, rope_scaling={key: "linear", **scaling})
        assert old == new and old.theta == 500.0 and old.scaling.factor == 3.0
    plain = with_rope(tiny_llama, tmp_path / "b", rope_theta=500.0, rope_scaling=None)
    assert plain.theta == 500.0 and plain.scaling is None
    assert with_rope(tiny_llama, tmp_path / "c").theta == 10000.0


def test_settings_that_are_on_by_default_may_not_be_off_unread():
    with pytest.raises(UserError, match="config.json: scaled=False is not read"):
        ConfigReader({"scaled": False}, {"scaled": True}).check()
    ConfigReader({"a": False, "b": None, "c": 3, "d": True}, {"c": 3, "d": True}).check()


def test_unknown_activations(families, tmp_path):
    for family, setting in {"bert": "hidden_act", "gpt2": "activation_function", "llama": "hidden_act"}.items():
        with pytest.raises(UserError, match="the activation 'mish' is not supported, only gelu"):
            jaxft.load(str(variant(families[family], tmp_path / family, config={setting: "mish"})))
