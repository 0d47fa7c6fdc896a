"""Reports of studies that lack something: masks, finished fits, cells of a paper's row, a grid."""

import dataclasses

import pytest
from made_studies import FIXED, begin, finish_grid, finish_search, write_space
from optuna.distributions import FloatDistribution

from ffcad.config import TrainConfig
from study.__main__ import main
from study.grids import factorial
from study.paper_numbers import ablation_row
from study.report import make_report, write_report
from study.report_comparison import compared
from study.report_paper import paper_blocks
from study.report_pictures import _pair
from study.report_tables import MUTED, Figure, Report, Section, Text, interval
from study.results import read_results
from study.storage import Storage

CELLS = {"all": {}, "no HSAS": {"hsas": "none"}}


def results_of(tmp_path, *also):
    return read_results(Storage(tmp_path / "runs"), "made", also)


def report_of(tmp_path):
    return make_report(results_of(tmp_path), Storage(tmp_path / "runs"))


def titled(report, title):
    return [t for t in report.tables if t.title == title]


def texts(report):
    return " ".join(b.text for s in report.sections for b in s.blocks if isinstance(b, Text))


def grid(tmp_path, cells, *flags, **parts):
    space = tmp_path / "question.py"
    write_space(space, "What helps?", CELLS=cells, FIXED=FIXED, **parts)
    return begin(tmp_path, space, *flags)


def wide_grid(tmp_path, cells, categories):
    """A grid on so many categories, category0 and so on, without an image."""
    for i in range(categories):
        (tmp_path / "images" / f"category{i}" / "train" / "good").mkdir(parents=True)
        (tmp_path / "images" / f"category{i}" / "test").mkdir()
    root = str(tmp_path / "images")
    return grid(tmp_path, cells, "--data", "mvtec", "--data-root", root, "--encoder", "random")


def take_masks(study, after=""):
    """Leaves the report split without pixel AP, in the categories after this one."""
    ledger = study[-1]
    for record in ledger.read_all(ledger.keys())[0]:
        if record.category > after:
            found = {k: v for k, v in record.metrics.items() if k != "report_pixel_ap"}
            ledger.write(dataclasses.replace(record, metrics=found))


@pytest.mark.parametrize("done", [False, True])
def test_two_of_the_papers_tables_without_masks_or_fits_lack_a_column_of_localisation(
    done, tmp_path
):
    study = grid(tmp_path, CELLS, TABLES=("12", "14"))
    if done:
        finish_grid(study, lambda cell, category, seed: {"image_auroc": 0.9, "pixel_ap": 0.5})
        take_masks(study)
    report = report_of(tmp_path)
    (twelve,) = titled(report, "Table 12 of the paper")
    assert [c.title for c in twelve.columns] == [
        "The paper's row", "Cell", "Det. here", "Det. in the paper"
    ]  # fmt: skip
    missing = next(row for row in twelve.rows if row[0].text == "FFC encoder")
    assert [e.text for e in missing] == ["FFC encoder", "no such cell", "\N{EN DASH}", "98.7"]


def test_without_a_finished_fit_no_table_of_categories_is_all_margin(tmp_path):
    study = grid(tmp_path, CELLS)
    assert not titled(report_of(tmp_path), "Image AUROC per category")
    finish_grid(study, lambda cell, category, seed: {"image_auroc": 0.9, "pixel_ap": 0.5})
    assert titled(report_of(tmp_path), "Image AUROC per category")


def test_a_metric_that_few_categories_have_does_not_hide_the_others_table(tmp_path):
    study = wide_grid(tmp_path, CELLS, 7)
    finish_grid(study, metrics)
    take_masks(study, after="category3")
    report = report_of(tmp_path)
    (table,) = [t for t in report.tables if "on categories like these" in t.title]
    assert table.title.startswith("Differences in image AUROC")
    said = texts(report)
    assert "On categories like these nothing can be said of pixel AP: " in said
    assert "but got 4" in said


def test_two_metrics_that_nothing_can_be_said_of_for_one_reason_have_one_line(tmp_path):
    finish_grid(grid(tmp_path, CELLS), metrics)
    (said,) = [t for t in texts(report_of(tmp_path)).split("On categories like these ")[1:]]
    assert said.startswith("nothing can be said of image AUROC and pixel AP: ")


def test_a_cell_that_few_categories_have_is_named_beside_the_table_of_the_others(tmp_path):
    study = wide_grid(tmp_path, {**CELLS, "one layer": {"ffc_layers": 1}}, 7)
    finish_grid(
        study, metrics, lambda cell, category, seed: cell != "one layer" or category < "category3"
    )
    found = titled(report_of(tmp_path), "Differences in pixel AP to all, on categories like these")
    (table,) = found
    assert [row[0].text for row in table.rows] == ["no HSAS"]
    assert table.notes[-1].startswith("Left out, because they share fewer than 6")
    assert table.notes[-1].endswith("the reference: “one layer”.")


def test_tables_without_a_verdict_say_how_many_cases_are_needed(tmp_path):
    cells = factorial({"hsas": ["none", "2d"], "ffc_layers": [1, 2]})
    study = wide_grid(tmp_path, cells, 6)

    def varied(cell, category, seed):
        better = (0.1 + 0.01 * int(category[-1])) * ("none" not in cell)
        return {"image_auroc": 0.9, "pixel_ap": 0.5 + better}

    finish_grid(study, varied)
    report = report_of(tmp_path)
    reference = next(iter(cells))
    needed = "Needed for a verdict at least, if those that are added differ"
    for title, number in (
        (f"Differences in pixel AP to {reference}, on these categories", "8 cases"),
        ("Effects on Pixel AP", "7 cases"),
        (f"Differences in pixel AP to {reference}, on categories like these", "7 categories"),
    ):
        (table,) = titled(report, title)
        (note,) = [n for n in table.notes if n.startswith(needed)]
        assert number in note, (title, note)


def test_an_interval_without_width_is_no_certainty(tmp_path):
    def even(cell, category, seed):
        return {
            "image_auroc": 0.9 + 0.01 * seed * (cell == "all"),
            "pixel_ap": {"all": 0.6, "no HSAS": 0.5}[cell],
        }

    finish_grid(grid(tmp_path, CELLS, "--categories", "wood,dial", "--seeds", "0,1,2,3,4"), even)
    report = report_of(tmp_path)
    (pixel,) = titled(report, "Differences in pixel AP to all, on these categories")
    assert any("Intervals without width: “no HSAS”" in note for note in pixel.notes)
    shown = interval(-0.1, -0.1)
    assert f"is worse by 10.00 points (95 % interval {shown}, without width" in texts(report)
    (image,) = titled(report, "Differences in image AUROC to all, on these categories")
    assert not any("without width" in note for note in image.notes)


def test_a_difference_of_zero_has_no_sign_to_agree_with(tmp_path):
    # By 0.1 + 0.2 and not by 0.3: what is left of rounding is no sign.
    values = {"all": 0.3, "no HSAS": 0.1 + 0.2}
    finish_grid(
        grid(tmp_path, CELLS, TABLES=("12",)),
        lambda cell, *case: {"image_auroc": values[cell], "pixel_ap": 0.5},
    )
    (table,) = titled(report_of(tmp_path), "Cells beside the reference")
    assert [e.text for e in table.rows[1][-2:]] == ["here: equal", "here: equal"]
    assert {e.tone for e in table.rows[1][-2:]} == {MUTED}


def test_a_search_whose_report_split_has_no_masks_says_so_of_the_ranking(tmp_path, recwarn):
    space = tmp_path / "question.py"
    write_space(
        space, "Which?", SEARCH={"hsas_probability": FloatDistribution(0.0, 1.0)}, FIXED=FIXED
    )
    study = begin(tmp_path, space, "--select-on", "synthetic")
    drawn = [{"hsas_probability": number / 10} for number in range(6)]
    finish_search(study, drawn, lambda number, category, seed: 0.5 + number / 100)
    take_masks(study)
    said = texts(report_of(tmp_path))
    assert "The report split has no pixel AP" in said
    assert "One of the splits has the same value" not in said
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_another_loss_is_no_row_of_the_paper(tmp_path):
    design = {"global_ratio": 0.0, "hsas": "none"}
    assert ablation_row(TrainConfig(**design)).name == "none: no FFC, no HSAS"
    assert ablation_row(TrainConfig(**design, reconstruction_loss="cosine")) is None
    cells = {"design": {**design, "reconstruction_loss": "cosine"}, "FFC-AD": {}}
    study = grid(tmp_path, cells)
    finish_grid(study, lambda cell, *of: {"image_auroc": 0.9, "pixel_ap": 0.5 + len(cell) / 100})
    (table,) = titled(report_of(tmp_path), "Cells beside the reference")
    signs = [i for i, c in enumerate(table.columns) if "sign" in c.title]
    assert signs
    assert all(row[i].text == "\N{EN DASH}" for row in table.rows for i in signs)


def test_a_training_that_all_cells_share_leaves_the_papers_rows_what_they_ask(tmp_path):
    training = ["--set", "reconstruction_loss=cosine", "--set", "optimizer=adamw"]
    study = grid(tmp_path, {"no HSAS": {"hsas": "none"}, "FFC-AD": {}}, *training)
    finish_grid(study, lambda cell, *of: {"image_auroc": 0.9, "pixel_ap": 0.5 - len(cell) / 100})
    (table,) = titled(report_of(tmp_path), "Cells beside the reference")
    paper = [i for i, c in enumerate(table.columns) if c.title.startswith("Paper's")]
    # The paper's Table 12: without HSAS 98.8 and 75.6, with it 98.9 and 77.0.
    assert [[row[i].text for i in paper] for row in table.rows] == [
        ["98.8", "75.6"],
        ["98.9", "77.0"],
    ]
    assert [e.text for e in table.rows[1][-2:]] == ["here: equal", "yes"]
    said = "optimizer adamw (there sgd), reconstruction_loss cosine (there l2)."
    assert table.notes[-1].endswith(f"trained otherwise than in the paper: {said}")


def test_a_further_metric_does_not_change_which_cells_are_shown(tmp_path):
    study = grid(tmp_path, {**CELLS, "one layer": {"ffc_layers": 1}})
    values = {"all": (0.5, 0.5), "no HSAS": (0.3, 0.49), "one layer": (0.45, 0.2)}

    def metrics(cell, category, seed):
        pixel_ap, aupro = values[cell]
        return {"image_auroc": 0.9, "pixel_ap": pixel_ap, "pixel_aupro": aupro}

    finish_grid(study, metrics)
    for also in ((), ("pixel_aupro",)):
        results = results_of(tmp_path, *also)
        assert _pair(results, compared(results))[0] == ("all", "no HSAS")


def test_the_time_of_an_image_is_refused_for_a_grid(tmp_path, capsys):
    grid(tmp_path, CELLS)
    flags = ["--storage", str(tmp_path / "runs"), "--no-mlflow", "--latency"]
    assert main(["report", "made", *flags]) == 2
    assert "--latency is for a search" in capsys.readouterr().err


def test_a_picture_that_a_report_has_no_more_is_removed_and_no_other_file(tmp_path):
    def report(*titles):
        figures = [Figure(title=t, caption="", draw=lambda: b"png", alternative="") for t in titles]
        return Report(
            study="made", question="?", state="", sections=(Section("All", tuple(figures)),)
        )

    pictures = tmp_path / "pictures"
    write_report(report("First", "Second"), tmp_path, ["markdown", "latex"])
    (pictures / "mine.png").write_bytes(b"mine")
    # The LaTeX file still shows the second.
    write_report(report("First"), tmp_path, ["markdown"])
    assert {p.name for p in pictures.iterdir()} == {"first.png", "second.png", "mine.png"}
    write_report(report("First"), tmp_path, ["markdown", "latex"])
    assert {p.name for p in pictures.iterdir()} == {"first.png", "mine.png"}


def test_a_reference_has_its_own_name_and_the_cells_that_are_the_same_are_named_once(tmp_path):
    cells = {"two layers": {"ffc_layers": 2}, "all": {}, "no HSAS": {"hsas": "none"}}
    study = grid(tmp_path, cells, REFERENCE="all")
    finish_grid(study, lambda cell, *of: {"image_auroc": 0.9, "pixel_ap": 0.5 + len(cell) / 100})
    assert [c.name for c in results_of(tmp_path).cells] == ["all", "no HSAS"]
    report = report_of(tmp_path)
    assert titled(report, "Differences in pixel AP to all, on these categories")
    assert texts(report).count("“all” is one configuration with “two layers”.") == 1


def test_a_category_that_is_not_finished_has_a_dash_beside_the_papers_value(tmp_path):
    study = grid(tmp_path, {"FFC-AD": {}}, "--categories", "wood", TABLES=("2",))
    finish_grid(study, lambda *of: {"image_auroc": 0.9, "pixel_ap": 0.5})
    results = results_of(tmp_path)
    config = dataclasses.replace(results.config, data="mvtec", categories=("wood", "tile"))
    tables = paper_blocks(dataclasses.replace(results, config=config))
    table = next(t for t in tables if t.title.startswith("Table 2 "))
    rows = {row[0].text: [e.text for e in row[1:]] for row in table.rows}
    dash = "\N{EN DASH}"
    assert list(rows) == ["tile", "wood", "average of these 1"]
    assert (rows["tile"][0], rows["tile"][2]) == (dash, dash)
    assert rows["tile"][1] not in (dash, rows["wood"][1])
    assert rows["wood"][0] == "90.0"


@pytest.mark.parametrize("confirm", [0, 3])
def test_a_search_is_advised_to_be_confirmed_unless_it_is(confirm, tmp_path):
    space = tmp_path / "question.py"
    drawn = [{"hsas_probability": number / 10} for number in range(2)]
    search = {"hsas_probability": FloatDistribution(0.0, 1.0)}
    write_space(space, "Which?", SEARCH=search, FIXED=FIXED)
    finish_search(begin(tmp_path, space, "--confirm", str(confirm)), drawn, lambda *of: 0.5)
    said = texts(report_of(tmp_path))
    assert ("--confirm K" in said) == (not confirm)
    assert ("report the figures of study made-confirm" in said) == bool(confirm)


FACTORS = {"hsas": ["none", "2d"], "ffc_layers": [1, 2, 3]}


def metrics(cell, category, seed):
    return {"image_auroc": 0.9, "pixel_ap": 0.5 + 0.1 * ("none" not in cell) + 0.001 * seed}


def test_a_cell_beside_a_factor_grid_does_not_hide_its_effects(tmp_path):
    cells = {"default": {}, **factorial(FACTORS)}
    finish_grid(grid(tmp_path, cells, "--seeds", "0,1"), metrics)
    (table,) = titled(report_of(tmp_path), "Effects on Pixel AP")
    assert table.rows[0][0].text == "hsas none -> 2d"
    assert table.rows[0][2].text == "+10.00"
    notes = " ".join(table.notes)
    assert "left out here: “default”" in notes
    assert "of “ffc_layers” there is no such row" in notes


def test_an_unfinished_factor_grid_says_what_its_effects_wait_for(tmp_path):
    cells = factorial(FACTORS)
    last = list(cells)[-1]
    study = grid(tmp_path, cells)
    finish_grid(study, metrics, only=lambda cell, category, seed: cell != last)
    said = texts(report_of(tmp_path))
    expected = "Nothing can be said yet of the factors' effects on image AUROC and pixel AP: "
    assert expected in said


def test_cells_that_are_no_factor_grid_have_no_word_of_effects(tmp_path):
    cells = {
        f"{hsas} {p}": {"hsas": hsas, "hsas_probability": p}
        for hsas, p in (("2d", 0.01), ("2d", 0.04), ("2d", 0.2), ("1d", 0.2))
    }
    finish_grid(grid(tmp_path, cells), metrics)
    report = report_of(tmp_path)
    assert "effects" not in texts(report)
    assert not titled(report, "Effects on Pixel AP")
