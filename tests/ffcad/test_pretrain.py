"""The making of an encoder: what it reaches, that it is exact when resumed, what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from encoders import RECIPE, make_corpus, make_teacher

from ffcad.checkpoint import CheckpointError, UnreadableCheckpoint, previous_checkpoint
from ffcad.encoder_weights import load_encoder_weights, read_card, save_encoder, state_digest
from ffcad.pretrain import UNBEATEN, PretrainError, pretrain
from ffcad.pretrain_config import EncoderArchitecture
from ffcad.resnet import FFCResNet

HALF = EncoderArchitecture(0.5, 2)
SUPERVISED = replace(
    RECIPE,
    method="supervised",
    iterations=20,
    evaluate_every=5,
    batch_size=8,
    held_out=0.25,
    supervised_learning_rate=1.0,
)


@pytest.fixture(scope="module")
def corpus():
    return make_corpus()


@pytest.fixture(scope="module")
def teacher():
    return make_teacher()


@pytest.fixture(scope="module")
def whole(corpus, teacher):
    """A making without interruption."""
    return list(pretrain(RECIPE, HALF, corpus, teacher))


def assert_same_end(resumed, whole):
    found, expected = resumed[-1].encoder.state_dict(), whole[-1].encoder.state_dict()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert resumed[-1].history == whole[-1].history
    assert resumed[-1].figures == whole[-1].figures


def test_distillation_comes_closer_to_its_teacher(whole):
    first, final = whole[0], whole[-1]
    assert [p.iteration for p in whole] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert [entry["iteration"] for entry in final.history] == [0, 2, 4, 6]
    assert final.figures["loss"] < 0.9 * first.figures["loss"]
    assert final.final
    assert not any(p.final for p in whole[:-1])


def test_it_starts_from_the_warm_start_unless_told_otherwise(whole, corpus, teacher):
    random = next(pretrain(replace(RECIPE, initial="random"), HALF, corpus, teacher))
    alone = list(pretrain(replace(RECIPE, method="warm_start"), HALF, corpus, teacher))
    assert random.figures["loss"] > whole[0].figures["loss"]
    assert [p.final for p in alone] == [True]
    assert alone[0].figures["loss"] == pytest.approx(whole[0].figures["loss"], rel=1e-4)


@pytest.mark.parametrize("stop", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 5))])
def test_a_making_that_was_left_off_ends_as_one_that_was_not(
    whole, corpus, teacher, tmp_path, stop
):
    """At an evaluation, between two, and before any."""
    path = tmp_path / "checkpoint.pt"
    making = pretrain(RECIPE, HALF, corpus, teacher, checkpoint=path)
    while next(making).iteration < stop:
        pass
    making.close()
    torch.manual_seed(99)  # what else the process has drawn does not matter
    resumed = list(pretrain(RECIPE, HALF, corpus, teacher, checkpoint=path))
    assert resumed[0].resumed_at == stop
    assert_same_end(resumed, whole)


@pytest.mark.slow
def test_a_finished_making_gives_its_end_again(whole, corpus, teacher, tmp_path):
    path = tmp_path / "checkpoint.pt"
    list(pretrain(RECIPE, HALF, corpus, teacher, checkpoint=path))
    assert not previous_checkpoint(path).is_file()
    again = list(pretrain(RECIPE, HALF, corpus, teacher, checkpoint=path))
    assert len(again) == 1
    assert_same_end(again, whole)


def test_a_spoilt_checkpoint_costs_no_more_than_the_one_before(whole, corpus, teacher, tmp_path):
    path = tmp_path / "checkpoint.pt"
    making = pretrain(RECIPE, HALF, corpus, teacher, checkpoint=path)
    while next(making).iteration < 4:
        pass
    path.write_bytes(path.read_bytes()[:1000])
    resumed = list(pretrain(RECIPE, HALF, corpus, teacher, checkpoint=path))
    assert resumed[0].resumed_at == 2
    assert "cannot be read as a checkpoint" in resumed[0].note
    assert_same_end(resumed, whole)
    for spoilt in (path, previous_checkpoint(path)):
        spoilt.write_bytes(b"spoilt")
    with pytest.raises(UnreadableCheckpoint):
        next(pretrain(RECIPE, HALF, corpus, teacher, checkpoint=path))


@pytest.mark.parametrize(
    ("recipe", "architecture", "images"),
    [
        (replace(RECIPE, learning_rate=2e-3), HALF, 24),
        (RECIPE, EncoderArchitecture(0.25, 2), 24),
        (RECIPE, HALF, 23),
    ],
)
def test_a_checkpoint_of_another_making_is_refused(
    corpus, teacher, tmp_path, recipe, architecture, images
):
    path = tmp_path / "checkpoint.pt"
    making = pretrain(RECIPE, HALF, corpus, teacher, checkpoint=path)
    while next(making).iteration < 2:
        pass
    other = corpus if images == 24 else replace(corpus, digest="another")
    with pytest.raises(CheckpointError, match="is of another making"):
        next(pretrain(recipe, architecture, other, teacher, checkpoint=path))


@pytest.mark.parametrize("layers", [2, 3])
def test_what_is_exact_from_the_start_is_not_trained(corpus, teacher, layers):
    """A ResNet-18 without FFC is its teacher; a third layer is the identity."""
    progress = list(pretrain(RECIPE, EncoderArchitecture(0.0, layers), corpus, teacher))
    assert [p.iteration for p in progress] == [0, 0]
    assert progress[-1].figures["level3_explained"] == pytest.approx(1, abs=1e-6)


def test_the_held_out_loss_is_weighted_as_the_training_loss(corpus, teacher, whole):
    """Else a recipe of cosines alone would be stopped, and chosen from, by squared errors."""
    *_, final = pretrain(replace(RECIPE, l2_weight=0.0), HALF, corpus, teacher)
    for progress, l2_weight in ((whole[-1], 1.0), (final, 0.0)):
        f = progress.figures
        levels = [
            1 - f[f"level{k}_cosine"] + l2_weight * (1 - f[f"level{k}_explained"])
            for k in (1, 2, 3)
        ]
        assert f["loss"] == pytest.approx(sum(levels) / 3)


@pytest.mark.slow
def test_it_ends_early_with_the_best_weights(corpus, teacher):
    """At a rate at which everything gets worse, the start is the best."""
    recipe = replace(RECIPE, learning_rate=3.0, patience=2, iterations=40, warmup=0.0)
    *_, final = pretrain(recipe, HALF, corpus, teacher)
    losses = [entry["loss"] for entry in final.history]
    best = min(range(len(losses)), key=losses.__getitem__)
    # Not before the second half, in which the rate falls and losses do.
    assert final.iteration == 20
    assert len(losses) - best > 2
    assert final.figures["loss"] < losses[-1]
    assert (best == 0) == (UNBEATEN in final.card["notes"])
    assert best == 0


def test_a_loss_that_is_not_finite_ends_it_with_the_knob_to_change(corpus, teacher):
    recipe = replace(RECIPE, learning_rate=1e30, warmup=0.0, iterations=20)
    with pytest.raises(PretrainError, match=r"iteration \d+; lower learning_rate"):
        list(pretrain(recipe, HALF, corpus, teacher))


@pytest.mark.slow
def test_a_branch_that_is_dead_is_no_encoder(corpus, teacher, monkeypatch):
    """Here the best weights are given a norm that makes a level's global half constant."""
    making = pretrain(RECIPE, HALF, corpus, teacher)
    for progress in making:
        if progress.iteration == RECIPE.iterations:
            break
    state = making.gi_yieldfrom.gi_frame.f_locals["self"]
    for name in ("weight", "bias"):
        for part in ("layer3.1.conv2.bn_g", "layer3.0.conv2.bn_g", "layer3.0.downsample.bn_g"):
            state.best[f"{part}.{name}"].fill_(0 if name == "weight" else -1)
    with pytest.raises(PretrainError, match="all channels of level3_global are constant"):
        next(making)


def test_the_weights_go_round_in_a_file_with_their_card(whole, tmp_path):
    final, path = whole[-1], tmp_path / "deep" / "encoder.safetensors"
    save_encoder(path, final.encoder, final.card)
    card = read_card(path)
    assert card == final.card
    assert card["architecture"] == {"ratio": 0.5, "layers": 2, "lfu": False}
    assert card["figures"] == final.figures
    assert card["images"] == {"trained": 22, "held_out": 2}
    fresh = FFCResNet(0.5)
    assert load_encoder_weights(fresh, str(path)) == state_digest(final.encoder.state_dict())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_class_labels_are_learnt_and_give_an_encoder():
    corpus = make_corpus(labels=True)
    *_, final = pretrain(SUPERVISED, HALF, corpus)
    assert final.figures["top1"] == 1.0
    assert final.history[0]["loss"] > 2 * final.figures["loss"]
    assert final.figures["top5"] == 1.0
    assert final.figures["level3_global_dead"] < 1
    assert final.encoder.architecture["stages"] == 3
    assert final.card["teacher"] is None


def test_random_weights_are_no_result_of_a_supervised_making():
    """They are right about all held-out images where those are of the class that they favour."""
    corpus = make_corpus(labels=True)
    one = replace(corpus, labels=np.zeros_like(corpus.labels))
    *_, final = pretrain(replace(SUPERVISED, iterations=2, evaluate_every=2), HALF, one)
    assert final.iteration == 2
    assert [entry["iteration"] for entry in final.history] == [0, 2]


@pytest.mark.slow
def test_a_supervised_making_is_exact_when_resumed(tmp_path):
    corpus, path = make_corpus(labels=True), tmp_path / "checkpoint.pt"
    recipe = replace(SUPERVISED, iterations=4)
    whole = list(pretrain(recipe, HALF, corpus))
    making = pretrain(recipe, HALF, corpus, checkpoint=path)
    while next(making).iteration < 3:
        pass
    making.close()
    assert_same_end(list(pretrain(recipe, HALF, corpus, checkpoint=path)), whole)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_gives_nearly_the_same(corpus, teacher, whole, precision):
    *_, final = pretrain(replace(RECIPE, precision=precision), HALF, corpus, teacher)
    assert final.figures != whole[-1].figures
    assert final.figures["loss"] == pytest.approx(whole[-1].figures["loss"], rel=0.1)


@pytest.mark.parametrize(
    ("recipe", "message"), [(RECIPE, "needs a teacher"), (SUPERVISED, "needs labels")]
)
def test_what_a_method_needs_is_said(corpus, recipe, message):
    with pytest.raises(ValueError, match=message):
        next(pretrain(recipe, HALF, corpus))


def test_the_numbers_are_those_of_this_version(whole):
    """Golden: whoever changes them raises PRETRAIN_VERSION, which is part of every key."""
    losses = [p.loss for p in whole[1:4]]
    assert losses == pytest.approx([0.9121, 0.8295, 1.7220], rel=2e-2)
