"""TrainConfig: bounds and messages, and what names a configuration."""

import contextlib
import dataclasses
import itertools
import json
import math
import re

import pytest
import torch

from ffcad.config import ConfigError, TrainConfig, knobs
from ffcad.model import FFCAD

NUMBERS = {name: f.metadata for name, f in knobs().items() if f.metadata["kind"] in (int, float)}
LOWS = [name for name, meta in NUMBERS.items() if meta["low"] is not None]
HIGHS = [name for name, meta in NUMBERS.items() if meta["high"] is not None]
WORDS = [name for name, f in knobs().items() if f.metadata["choices"]]


def test_every_knob_says_what_it_does_and_every_number_has_a_bound():
    assert [name for name, f in knobs().items() if not f.metadata["help"]] == []
    assert [name for name, m in NUMBERS.items() if m["low"] is None and not m["choices"]] == []


@pytest.mark.parametrize("name", LOWS)
def test_below_the_lower_bound_is_refused_and_the_bound_taken_unless_open(name):
    low, kind = NUMBERS[name]["low"], NUMBERS[name]["kind"]
    with pytest.raises(ConfigError, match=f"^{name} must be .*but got {kind(low - 1)!r}"):
        TrainConfig(**{name: kind(low - 1)})
    if NUMBERS[name]["open_low"]:
        with pytest.raises(ConfigError, match=f"^{name} must be more than"):
            TrainConfig(**{name: kind(low)})
        low = math.nextafter(low, 1)
    assert getattr(TrainConfig(**{name: kind(low)}), name) == low


@pytest.mark.parametrize("name", HIGHS)
def test_above_the_upper_bound_is_refused_and_the_bound_taken_unless_open(name):
    high, kind = NUMBERS[name]["high"], NUMBERS[name]["kind"]
    with pytest.raises(ConfigError, match=f"^{name} must be .*but got {kind(high + 1)!r}"):
        TrainConfig(**{name: kind(high + 1)})
    if NUMBERS[name]["open_high"]:
        with pytest.raises(ConfigError, match=f"^{name} must be less than"):
            TrainConfig(**{name: kind(high)})
        high = math.nextafter(high, 0)
    assert getattr(TrainConfig(**{name: kind(high)}), name) == high


@pytest.mark.parametrize("name", WORDS)
def test_choices_are_taken_and_anything_else_is_refused_with_the_list(name):
    choices = knobs()[name].metadata["choices"]
    for choice in choices:
        assert getattr(TrainConfig(**{name: choice}), name) == choice
    other = "other" if knobs()[name].metadata["kind"] is str else 77
    with pytest.raises(ConfigError, match=f"^{name} must be one of") as error:
        TrainConfig(**{name: other})
    assert all(repr(choice) in str(error.value) for choice in choices)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 8.0),
        ("batch_size", True),
        ("hsas_probability", "0.1"),
        ("hsas_probability", None),
        ("channels_last", 1),
        ("encoder_weights", None),
        ("gradient_clip", "off"),
    ],
)
def test_another_type_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be (int|float|bool|str)( or None)? but"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_must_be_finite(value):
    with pytest.raises(ConfigError, match="sgd_learning_rate must be finite"):
        TrainConfig(sgd_learning_rate=value)


def test_an_unknown_knob_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="'ffc_layer'; did you mean 'ffc_layers'"):
        TrainConfig.from_dict({"ffc_layer": 2})
    with pytest.raises(ConfigError, match="'zzz'; knobs are image_size, "):
        TrainConfig.from_dict({"zzz": 2})


def test_something_must_be_trained():
    with pytest.raises(ConfigError, match="autoencoder_iterations and head_iterations"):
        TrainConfig(autoencoder_iterations=0, head_iterations=0)


def test_no_more_pixels_are_averaged_than_there_are():
    TrainConfig(image_size=32, image_score_pixels=1024)
    with pytest.raises(ConfigError, match="at most image_size squared"):
        TrainConfig(image_size=32, image_score_pixels=1025)


@pytest.mark.parametrize("ratio", [1 / 32, 0.1, 0.25, 0.99])
def test_a_network_that_is_accepted_can_be_built(ratio):
    """Built on the meta device, which costs little."""
    for lfu, channels in itertools.product((False, True), (16, 64)):
        width = dict(local_fourier_unit=lfu, autoencoder_channels=channels)
        with contextlib.suppress(ConfigError), torch.device("meta"):
            FFCAD(TrainConfig(global_ratio=ratio, **width))


@pytest.mark.parametrize(
    ("knobs_", "message"),
    [
        (dict(global_ratio=0.03), "at least 0.03125 where a stage has 64 channels, but got 0.03"),
        (dict(global_ratio=0.1, autoencoder_channels=16), "at least 0.125 where a stage has 16"),
        (dict(global_ratio=0.1, local_fourier_unit=True), "half is divisible by 4"),
    ],
)
def test_a_global_branch_that_is_too_narrow_is_refused(knobs_, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig(**knobs_)
    TrainConfig(**knobs_, ffc_encoder=False, ffc_autoencoder=False)  # no branch, no trouble


def test_usual_ratios_are_taken_with_and_without_local_unit():
    for ratio, lfu in itertools.product((0, 0.125, 0.25, 0.5, 0.75), (False, True)):
        TrainConfig(global_ratio=ratio, local_fourier_unit=lfu)


def test_a_configuration_goes_through_json_and_keeps_its_digest():
    config = TrainConfig(global_ratio=0.25, hsas="1d", gradient_clip=2, optimizer="adamw")
    again = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.digest() == config.digest()


def test_digests_of_known_configurations_stay():
    """Kept results are found by them. If this fails, every earlier result is lost to its user:
    give a new knob the default that keeps the old behaviour, and leave the other defaults."""
    assert TrainConfig().digest() == "44136fa355b3"
    assert TrainConfig(global_ratio=0.25, hsas="none").digest() == "1177e4eab7f2"


def test_whole_numbers_and_floats_name_the_same_configuration():
    assert TrainConfig(global_ratio=0, momentum=0).digest() == (
        TrainConfig(global_ratio=0.0, momentum=0.0).digest()
    )


def test_the_digest_ignores_how_a_training_is_run():
    default = TrainConfig().digest()
    assert TrainConfig(device="cpu", loader_workers=2, evaluate_every=7).digest() == default


@pytest.mark.parametrize("name", [n for n, f in knobs().items() if f.metadata["numerical"]])
def test_the_digest_sees_every_knob_that_changes_the_result(name):
    f = knobs()[name]
    kind, choices = f.metadata["kind"], f.metadata["choices"]
    if choices:
        value = next(c for c in choices if c != f.default)
    elif kind is bool:
        value = not f.default
    else:
        value = {str: "weights.pth", int: 7, float: 0.25}[kind]
        value = value + 32 if name in ("image_size", "autoencoder_channels") else value
        value = value + 1 if name == "head_channels" else value
    where_used = {k: allowed[0] for k, allowed in f.metadata["active_if"].items()}
    changed = TrainConfig(**where_used, **{name: value})
    assert changed.digest() != TrainConfig(**where_used).digest()


def test_a_knob_without_effect_is_no_part_of_the_identity():
    assert TrainConfig(hsas="none", hsas_probability=0.3) != TrainConfig(hsas="none")
    assert (
        TrainConfig(hsas="none", hsas_probability=0.3).digest() == TrainConfig(hsas="none").digest()
    )
    assert TrainConfig(adamw_learning_rate=0.5).digest() == TrainConfig().digest()
    assert TrainConfig(hsas_probability=0.3).digest() != TrainConfig().digest()


def test_differences_name_both_values():
    found = TrainConfig(global_ratio=0.25).differences(TrainConfig(hsas="1d"))
    assert found == {"global_ratio": (0.25, 0.5), "hsas": ("2d", "1d")}


def test_the_learning_rate_is_the_optimizers():
    rates = dict(sgd_learning_rate=0.3, adamw_learning_rate=0.002)
    assert TrainConfig(optimizer="sgd", **rates).learning_rate == 0.3
    assert TrainConfig(optimizer="adamw", **rates).learning_rate == 0.002


def test_ffc_is_switched_on_either_side():
    config = TrainConfig(global_ratio=0.25, ffc_encoder=False)
    assert (config.encoder_ratio, config.autoencoder_ratio) == (0.0, 0.25)
    config = TrainConfig(global_ratio=0.25, ffc_autoencoder=False)
    assert (config.encoder_ratio, config.autoencoder_ratio) == (0.25, 0.0)


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().hsas = "none"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dict(global_ratio=0.0), dict(ffc_encoder=False, ffc_autoencoder=False)),
        (
            dict(ffc_encoder=False, ffc_autoencoder=False, global_ratio=0.25),
            dict(ffc_encoder=False, ffc_autoencoder=False, local_fourier_unit=True),
        ),
        (dict(hsas_probability=0.0), dict(hsas="none")),
        (dict(hsas="none", hsas_probability=0.3), dict(hsas="none")),
    ],
)
def test_the_same_training_in_other_words_has_one_digest(one, other):
    assert TrainConfig(**one).digest() == TrainConfig(**other).digest()
    assert TrainConfig(**one).digest() != TrainConfig().digest()


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", ""])
def test_a_device_that_no_machine_has_is_refused(device):
    with pytest.raises(ConfigError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        TrainConfig(device=device)
