"""What identifies an encoder."""

from dataclasses import replace

import pytest

from ffcad.config import ConfigError, TrainConfig
from ffcad.pretrain_config import EncoderArchitecture, PretrainConfig, encoder_key


def key(recipe=None, architecture=None, teacher="t", corpus="c") -> str:
    architecture = architecture or EncoderArchitecture(0.5, 2)
    return encoder_key(recipe or PretrainConfig(), architecture, teacher, corpus)


def test_ratios_that_give_the_same_channels_are_one_architecture():
    assert EncoderArchitecture(0.3, 2) == EncoderArchitecture(0.2999, 2)
    assert EncoderArchitecture(0.3, 2) != EncoderArchitecture(0.304, 2)
    for ratio in (0.25, 0.3, 0.77):
        same = EncoderArchitecture(ratio, 2).ratio
        assert [int(c * ratio) for c in (64, 128, 256)] == [int(c * same) for c in (64, 128, 256)]


def test_a_frozen_encoder_without_ffc_has_ratio_0():
    config = TrainConfig(ffc_encoder=False, ffc_layers=2)
    assert EncoderArchitecture.of(config).is_resnet18
    assert not EncoderArchitecture.of(replace(config, ffc_layers=1)).is_resnet18
    assert not EncoderArchitecture.of(TrainConfig()).is_resnet18


def test_the_key_changes_with_everything_that_can_change_the_weights():
    keys = [
        key(),
        key(replace(PretrainConfig(), iterations=7)),
        key(architecture=EncoderArchitecture(0.25, 2)),
        key(architecture=EncoderArchitecture(0.5, 3)),
        key(architecture=EncoderArchitecture(0.5, 2, lfu=True)),
        key(teacher="another"),
        key(corpus="another"),
    ]
    assert len(set(keys)) == len(keys)
    assert len(key()) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cuda:1"},
        {"loader_workers": 4},
        {"supervised_learning_rate": 0.3},
    ],
)
def test_the_key_does_not_change_with_what_cannot(changes):
    assert key(replace(PretrainConfig(), **changes)) == key()


def test_the_plain_resnet18_is_its_teacher_whatever_the_recipe_and_the_images():
    plain = EncoderArchitecture(0.0, 2)
    other = replace(PretrainConfig(), iterations=7)
    assert key(architecture=plain) == key(other, plain, corpus="another")
    assert key(architecture=plain) == key(PretrainConfig(method="warm_start"), plain)
    assert key(architecture=plain) != key(architecture=plain, teacher="another")
    random = replace(PretrainConfig(), initial="random")
    assert key(random, plain) != key(random, plain, corpus="another")


def test_a_knob_at_its_default_is_not_part_of_the_key():
    """So a knob that is added later leaves old keys as they are."""
    assert PretrainConfig().identity() == {}
    assert PretrainConfig(iterations=7).identity() == {"iterations": 7}


def test_a_warm_start_does_not_depend_on_how_one_would_train():
    started = PretrainConfig(method="warm_start")
    assert key(replace(started, iterations=7, learning_rate=0.5)) == key(started)
    assert key(replace(started, calibration_batches=3)) != key(started)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iteration": 3}, "unknown knob 'iteration'; did you mean 'iterations'"),
        ({"method": "magic"}, "method must be one of 'distilled', 'warm_start', 'supervised'"),
        ({"held_out": 0.9}, "held_out must be at most 0.5 but got 0.9"),
        ({"cosine_weight": 0, "l2_weight": 0}, "cosine_weight and l2_weight are both 0"),
        ({"device": "gpu"}, "device must be 'auto', 'cpu', 'cuda' or 'cuda:N' but got 'gpu'"),
        ({"brightness": 1.0}, "brightness must be less than 1 but got 1.0"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message):
        PretrainConfig.from_dict(values)
