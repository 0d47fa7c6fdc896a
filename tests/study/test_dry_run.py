"""What `--dry-run` says, and that it leaves everything as it was."""

import dataclasses
import os
import platform
import re

import pytest

from study.analysis import compare_cells
from study.arguments import parse
from study.category_analysis import compare_over_categories
from study.costs import Estimate
from study.dry_run import describe, describe_more, describe_place, describe_power
from study.inputs import prepare
from study.machine_files import kept_estimate
from study.run import main
from study.verdicts import TOO_FEW

HOUR = 3600.0
ESTIMATE = Estimate(
    fits=36, finished=4, begun=1, left=30, configurations=12, seconds=50 * HOUR,
    wall_seconds=25 * HOUR, slots=2, gpus=0.5, source="made up",
)  # fmt: skip


def test_an_estimate_is_said_in_lines():
    making = dataclasses.replace(ESTIMATE, encoders=2, encoder_seconds=1800.0)
    assert describe(making, 4.2e9, 2.0) == [
        "ledger: 4 of 36 fits finished, 1 begun, 30 left",
        "encoders: 2 to make; 30 min at most, counted in",
        "time: about 25 h 15 min, 2 trials at once; 2 d 2 h added up (made up)",
        "GPU-hours: about 25.2",
        "money: about 50.50, at 2 per GPU-hour",
        "disk: about 4.2 GB",
    ]
    unknown = dataclasses.replace(
        ESTIMATE, gpus=0.0, seconds=90.0, wall_seconds=45.0, encoders=1, encoder_seconds=None
    )
    assert describe(unknown, 0.0, 2.0)[1:] == [
        "encoders: 1 to make; not counted in, because the storage has none like them",
        "time: about 45 s, 2 trials at once; 90 s added up (made up)",
        "money: none, without a GPU, at 2 per GPU-hour",
        "disk: about 0.0 GB",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--space smoke", []),
        ("--space main", []),
        ("--space smoke_grid --seeds 0,1", ["p-value: 1 after", "no verdict is possible below 8"]),
        ("--space components --seeds 0,1,2,3,4,5,6,7,8", ["smallest p-value: 0.023 after Holm"]),
        ("--space paper --seeds 0,1,2", ["(3 cases, 12 comparisons in 2 metrics)"]),
        ("--space optimizer --num-trials 2 --seeds 0,1,2,3,4,5", ["(6 cases, 1 comparison in 2"]),
        ("--space smoke --confirm 6", ["smallest p-value: 0.062 after", "(6 cases, 1 comparison"]),
    ],
)  # fmt: skip
def test_a_design_knows_what_it_can_show_at_best(tmp_path, flags, said):
    config, space, _ = parse(["--storage", str(tmp_path), *flags.split()])
    lines = describe_power(config, space, 2)
    assert len(lines) == bool(said)
    for part in said:
        assert part in lines[0]


def test_a_design_promises_no_more_than_its_report_keeps(tmp_path):
    config, space, _ = parse(["--storage", str(tmp_path), "--space", "smoke_grid"])
    config = dataclasses.replace(config, categories=[f"category {i}" for i in range(15)])
    scores = {
        name: {case: 0.5 + 0.1 * i + 0.001 * n for n, case in enumerate(config.cases)}
        for i, name in enumerate(space.cells)
    }
    metrics = ("report_image_auroc", "report_pixel_ap")
    by_cases = compare_cells(dict.fromkeys(metrics, scores), space.reference)
    by_categories = compare_over_categories(scores, space.reference, metrics[0])
    cases, categories = describe_power(config, space, len(metrics))
    assert f"smallest p-value: {by_cases[0].smallest_p:.2g} after" in cases
    assert by_cases[0].verdict == TOO_FEW
    assert "no verdict is possible on these categories without a second seed" in cases
    least = by_categories[0].smallest_p
    assert categories == f"on categories like these: {least:.2g} (15 categories)"
    few = dataclasses.replace(config, categories=config.categories[:6], seeds=(0, 1))
    cases, categories = describe_power(few, space, len(metrics))
    assert "second seed" not in cases
    assert categories.endswith("(6 categories); no verdict is possible below 7 categories")


def test_on_a_cluster_it_says_whose_figures_they_are():
    machine, note = describe_place(on_cluster=True)
    assert describe_place(on_cluster=False) == [machine]
    cores = os.cpu_count()
    assert machine.startswith(f"machine: {platform.node()}, {cores} core{'s' * (cores != 1)}, ")
    assert note.startswith("note: the cluster was neither asked nor measured. Time, trials at once")


def test_a_search_says_what_makes_it_less_and_what_comes_after_it(tmp_path):
    flags = "--confirm 2 --categories wood,dial"
    config, space, _ = parse(["--storage", str(tmp_path), *flags.split()])
    assert describe_more(config, space, lambda configuration, category: 60.0) == [
        "early stopping: makes it less, by how much is not known",
        "confirmation: 8 fits, about 8 min more, not counted in",
    ]
    config, space, _ = parse(["--storage", str(tmp_path), "--no-early-stopping"])
    assert describe_more(config, space, lambda configuration, category: 60.0) == []
    config, space, _ = parse(["--storage", str(tmp_path), "--space", "smoke_grid"])
    assert describe_more(config, space, lambda configuration, category: 60.0) == []


@pytest.mark.slow
def test_a_dry_run_measures_says_the_costs_and_leaves_nothing(tmp_path, capsys):
    space = tmp_path / "two.py"
    space.write_text(
        '"""Is a wider head better?"""\n'
        'CELLS = {"narrow": {"head_channels": 8}, "wide": {"head_channels": 16}}\n'
    )
    flags = (
        "--study mine --categories dial --seeds 0,1 --set image_size=32 --set batch_size=2 "
        "--set autoencoder_channels=16 --set autoencoder_iterations=400 --set head_iterations=800 "
        "--set ffc_layers=1 --set global_ratio=0 --dry-run"
    )
    storage = tmp_path / "runs"
    code = main([*flags.split(), "--space", str(space), "--storage", str(storage)])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    said = " ".join(captured.out.split())
    assert "Is a wider head better? 2 cells x 2 cases = 4 fits: 4 to do" in said
    assert "ledger: 0 of 4 fits finished, 0 begun, 4 left" in said
    assert re.search(r"time: about \d+ (s|min|h)", said)
    assert "measured on dial on this machine" in said
    assert f"machine: {platform.node()}, " in said
    assert "the cluster was neither asked nor measured" not in said
    assert (
        "smallest p-value: 1 after Holm's correction (2 cases, 1 comparison in 2 metrics)" in said
    )
    assert [path for path in storage.rglob("*") if path.is_file()] == []
    # The study itself, on the same machine, has the plan that was said.
    arguments = [*flags.split()[:-1], "--space", str(space), "--storage", str(storage)]
    config, checked, _ = parse(arguments)
    config, inputs, _ = prepare(config, checked)
    plan = kept_estimate(config, inputs)
    assert (plan["fits"], plan["finished"]) == (4, 0)
    assert "measured on dial" in plan["source"]
