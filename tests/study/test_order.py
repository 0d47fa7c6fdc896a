"""In which order a grid's fits are handed out."""

import dataclasses
import random

import made_studies
import pytest

from ffcad.config import TrainConfig
from study.cluster import Room
from study.fit_costs import fit_work
from study.ledger import FitRecord
from study.makespan import lower_bound, makespan
from study.order import NEARLY, RESERVE, expected_durations, in_order
from study.plan import make_plan
from study.sitting import Sitting
from study.trials import Case, new_trial
from study.tuning import make_search

CATEGORIES = ("cable", "pill", "wood")
CELLS = ("long", "middle", "short")
SECONDS = {"long": 40.0, "middle": 20.0, "short": 10.0}


def grid(categories=CATEGORIES, seeds=(0, 1), cells=CELLS):
    """A grid's trials case by case, and what each takes; their digests name the cells."""
    trials = []
    for seed in seeds:
        for category in categories:
            for cell in cells:
                number = len(trials)
                case = Case(category, seed, f"{cell}-{category}-{seed}")
                trial = new_trial(number, {}, TrainConfig(), (case,))
                trials.append(dataclasses.replace(trial, digest=cell))
    return trials, {t.number: SECONDS[t.digest] for t in trials}


def named(trials):
    return [(t.digest, t.cases[0].category, t.cases[0].seed) for t in trials]


def ordered(trials, seconds, slots):
    return in_order(trials, frozenset(t.number for t in trials), seconds, slots)


def test_the_longest_come_first_and_their_categories_are_spread():
    trials, seconds = grid()
    assert named(ordered(trials, seconds, slots=64)) == [
        (cell, category, seed) for cell in CELLS for seed in (0, 1) for category in CATEGORIES
    ]


def test_cells_that_take_nearly_the_same_stay_paired():
    trials, seconds = grid(cells=("long", "middle"))
    # Not known better than that: no order is made of it.
    seconds = {n: 100.0 if s == 40 else 100.5 / NEARLY for n, s in seconds.items()}
    order = named(ordered(trials, seconds, slots=64))
    assert order[:6] == [(cell, c, 0) for cell in ("long", "middle") for c in CATEGORIES]
    assert {seed for _, _, seed in order[6:]} == {1}


def test_with_few_slots_all_but_the_end_goes_case_by_case():
    trials, seconds = grid(seeds=range(10))
    order = ordered(trials, seconds, slots=2)
    reserve = RESERVE * 2 * 40
    # A case takes 70; the fewest whole cases that suffice are kept for the end.
    cases = int(-(-reserve // 70))
    kept = 3 * cases
    assert order[:-kept] == trials[:-kept]
    assert {t.number for t in order[-kept:]} == {t.number for t in trials[-kept:]}
    assert [t.digest for t in order[-kept:]] == [c for c in CELLS for _ in range(cases)]


def test_what_was_begun_comes_before_and_in_its_own_order():
    trials, seconds = grid()
    unbegun = frozenset(t.number for t in trials if t.number not in (2, 8, 5))
    order = in_order(trials, unbegun, seconds, 64)
    assert [t.number for t in order[:3]] == [2, 5, 8]
    assert [t.digest for t in order[3:]] == ["long"] * 6 + ["middle"] * 6 + ["short"] * 3
    # Nothing of a search is unbegun, and it keeps its order.
    assert in_order(trials, frozenset(), seconds, 64) == trials


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16, 32])
def test_the_end_is_level_where_the_longest_cell_is_the_last_one_of_each_case(slots):
    trials, seconds = grid(seeds=range(20), cells=("short", "middle", "long"))
    noise = random.Random(slots)
    took = {number: s * noise.uniform(0.95, 1.05) for number, s in seconds.items()}
    before = makespan([took[t.number] for t in trials], slots)
    after = makespan([took[t.number] for t in ordered(trials, seconds, slots)], slots)
    bound = lower_bound(list(took.values()), slots)
    assert after <= 1.05 * bound
    assert after <= before + 1e-9
    # On few slots any order is good enough; from 16 on this one is needed.
    assert slots < 16 or before > 1.05 * bound


def fit(configuration, category, seconds, images=40, gpu=None):
    return FitRecord(
        key=f"{category}-{seconds}", status="finished", study="a", trial=0, digest="",
        configuration=configuration.to_dict(), category=category, seed=0, select_on="paper",
        inputs={"images": {"train": 80, "select": images, "report": images}},
        seconds=seconds, environment={"gpu": gpu, "threads": 1},
    )  # fmt: skip


SMALL = TrainConfig(image_size=64, autoencoder_channels=16, head_channels=8, ffc_layers=1)
LONGER = dataclasses.replace(SMALL, head_iterations=2 * SMALL.head_iterations)


def test_durations_come_from_like_fits_and_else_from_the_work():
    trials = [
        new_trial(n, {}, configuration, (Case(category, 0, str(n)),))
        for n, (configuration, category) in enumerate(
            (c, category) for c in (SMALL, LONGER) for category in ("wood", "pill")
        )
    ]
    works = expected_durations(trials, [])
    assert works[0] == works[1] == fit_work(SMALL, (0, 0))
    assert works[2] > works[0]
    # Where the ledger knows a fit of that size on that category, it is that one's seconds.
    told = [fit(SMALL, "wood", 100.0), fit(SMALL, "pill", 140.0, images=80)]
    seconds = expected_durations(trials, told)
    assert (seconds[0], seconds[1]) == (100.0, 140.0)
    assert 140 < seconds[2] < seconds[3] < 2 * 140
    # One GPU among many cores says nothing of them, nor does a fit of quite another size.
    strangers = [
        fit(SMALL, "wood", 1.0, gpu="a GPU"),
        fit(dataclasses.replace(SMALL, batch_size=64), "wood", 9.0),
    ]
    assert expected_durations(trials, [*told, *strangers]) == seconds


def test_a_driver_hands_out_the_longest_first_and_after_a_kill_what_was_begun(tmp_path):
    space_file = tmp_path / "two.py"
    cells = {"short": {"ffc_layers": 1}, "long": {"ffc_layers": 3}}
    made_studies.write_space(space_file, "Which?", CELLS=cells, FIXED=made_studies.FIXED)
    study = made_studies.begin(tmp_path, space_file, "--categories", "dial,wood", "--seeds", "0,1")
    config, space, inputs, folder, ledger = study
    for layers, (_, cell) in zip((1, 3), space.distinct_cells(), strict=True):
        assert cell.ffc_layers == layers
        case = Case("dial", 9, f"of-another-study-{layers}")
        record = made_studies.fit(config, cell, case, 0, {"pixel_ap": 0.5}, seconds=100.0 * layers)
        ledger.write(record)

    def handed_out(count):
        plan = make_plan(config, space, inputs, folder, ledger)
        sitting = Sitting(config, space, inputs, folder, None, plan, tmp_path / "made.journal")
        search = make_search(sitting, Room(4, 0.0))
        suggestions = [search.suggest(str(n)) for n in range(count)]
        return [
            (s["trial_number"], s["configuration"]["ffc_layers"], s["cases"][0]["category"])
            for s in suggestions
        ]

    long = [(1, 3, "dial"), (3, 3, "wood"), (5, 3, "dial"), (7, 3, "wood")]
    assert handed_out(3) == long[:3]
    # The driver was killed, and the next one knows other durations: what was begun is gone on with.
    ledger.write(dataclasses.replace(ledger.read("of-another-study-1"), seconds=900.0))
    short = [(0, 1, "dial"), (2, 1, "wood"), (4, 1, "dial"), (6, 1, "wood")]
    assert handed_out(8) == [*long[:3], *short, long[3]]
