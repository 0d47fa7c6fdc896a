"""A report's numbers against those computed by hand, on studies with made-up results."""

import dataclasses
import json
from pathlib import Path

import pytest
from made_studies import FIXED, begin, finish_grid, finish_search, write_space

from study.__main__ import main
from study.config import StudyError
from study.leases import Waiter
from study.paper_numbers import ablation_row, table_rows
from study.report import make_report
from study.report_cost import spent
from study.report_figures import mean_curve
from study.report_search import front_of
from study.report_tables import MINUS, NOTHING, Text, duration, interval, p_value, percent, points
from study.results import read_results
from study.storage import Storage

CELLS = {"all": {}, "no HSAS": {"hsas": "none"}, "one_layer|<1>": {"ffc_layers": 1}}


@pytest.fixture
def grid(tmp_path):
    space = tmp_path / "question.py"
    write_space(space, "What helps?", CELLS=CELLS, FIXED=FIXED, TABLES=("12",))
    return begin(tmp_path, space, "--categories", "wood,dial", "--seeds", "0,1,2,3")


def metrics(cell, category, seed):
    pixel_ap = 0.5 + 0.02 * (category == "dial") + 0.002 * seed
    better = {"all": 0.0, "no HSAS": -0.1, "one_layer|<1>": 0.004 * (-1) ** seed}[cell]
    return {"image_auroc": 0.9, "pixel_ap": pixel_ap + better}


def search_of_six(tmp_path, stopped):
    """A search on two categories, one of whose six trials was stopped; the later, the better."""
    path = tmp_path / "question.py"
    write_space(path, "Which?", FIXED=FIXED)
    with path.open("a") as f:
        f.write('SEARCH = {"hsas_probability": FloatDistribution(0.05, 0.4)}\n')
    study = begin(tmp_path, path, "--categories", "wood,dial")
    drawn = [{"hsas_probability": 0.05 + 0.05 * i} for i in range(6)]
    finish_search(study, drawn, lambda number, category, seed: 0.1 * number, stopped=(stopped,))
    return study


def report_of(tmp_path, **options):
    storage = Storage(tmp_path / "runs")
    return make_report(read_results(storage, "made"), storage, **options)


def table(report, title):
    (found,) = (t for t in report.tables if t.title == title)
    return {row[0].text: [plain(entry.text) for entry in row[1:]] for row in found.rows}


def plain(text):
    return text.replace(MINUS, "-").replace(NOTHING, "")


def texts(report):
    return [b.text for s in report.sections for b in s.blocks if isinstance(b, Text)]


def test_the_table_has_means_spreads_differences_verdicts_and_the_papers_values(grid, tmp_path):
    finish_grid(grid, metrics)
    rows = table(report_of(tmp_path), "Cells beside the reference")
    # Means over seeds: 0.503 and 0.523; the standard deviation of 0, 2, 4, 6 thousandths is 2.6.
    assert rows["all"][:7] == ["8 of 8", "90.0 ± 0.0", "reference", "", "51.3 ± 0.3", "reference",
                               ""]  # fmt: skip
    assert rows["all"][7:] == ["98.9", "77.0", "", ""]
    none = rows["no HSAS"]
    assert none[4] == "41.3 ± 0.3"
    assert none[5].startswith("-10.00 [")
    # Eight pairs, all of one sign: p is 2 / 2**8, and one of four comparisons makes 4 / 128.
    assert none[6] == "worse"
    assert none[7:] == ["98.8", "75.6", "here: equal", "yes"]
    assert rows["one_layer|<1>"][6] == "no difference shown"
    behind = table(report_of(tmp_path), "Differences in pixel AP to all, on these categories")
    assert behind["no HSAS"][5:7] == ["0.008", "0.031"]


def test_other_metrics_are_compared_on_demand_and_have_no_number_of_the_paper(grid, tmp_path):
    finish_grid(
        grid, lambda *of: {**metrics(*of), "pixel_aupro": 2 * metrics(*of)["pixel_ap"] - 0.2}
    )
    storage = Storage(tmp_path / "runs")
    report = make_report(read_results(storage, "made", ("pixel_aupro",)), storage)
    rows = table(report, "Cells beside the reference")
    assert rows["no HSAS"][7:10] == ["62.6 ± 0.5", "-20.00 [-20.00, -20.00]", "worse"]
    titles = [t.title for t in report.tables]
    assert "Differences in pixel AUPRO to all, on these categories" in titles
    (shown,) = (t for t in report.tables if t.title == "Cells beside the reference")
    assert [c.title for c in shown.columns if "Paper" in c.title] == [
        "Paper's Det.",
        "Paper's Loc.",
    ]
    with pytest.raises(StudyError, match=r"--also 'aupro': the other metrics .* are pixel_aupro"):
        read_results(storage, "made", ("aupro",))


def test_the_answer_says_the_verdicts_in_words(grid, tmp_path):
    finish_grid(grid, metrics)
    said = texts(report_of(tmp_path))
    assert any("“no HSAS” is worse by 10.00 points (95 % interval" in text for text in said)
    assert any("no difference is shown for “one_layer|<1>”" in text for text in said)


def test_with_too_few_cases_there_is_no_verdict_and_the_number_needed(grid, tmp_path):
    finish_grid(grid, metrics, only=lambda cell, category, seed: seed < 2 and category == "wood")
    report = report_of(tmp_path)
    assert table(report, "Cells beside the reference")["no HSAS"][6] == "too few cases"
    assert any("each has 2 in common with the reference, and 8 or more" in t for t in texts(report))


def test_with_one_seed_a_second_one_is_asked_for_and_not_more_categories(grid, tmp_path):
    finish_grid(grid, metrics, only=lambda cell, category, seed: seed == 0)
    report = report_of(tmp_path)
    said = " ".join(texts(report))
    assert (
        "no verdict on “no HSAS”, “one_layer|<1>”: one seed per category gives no interval, "
        "whatever the number of categories; give a second seed, and 8 or more cases in all are "
        "needed" in said
    )
    assert "in common with the reference" not in said


def test_a_seed_that_is_lucky_in_several_categories_at_once_is_warned_of(tmp_path):
    space = tmp_path / "question.py"
    write_space(space, "What helps?", CELLS={"a": {}, "b": {"hsas": "none"}}, FIXED=FIXED)
    study = begin(tmp_path, space, "--categories", "wood,dial,plate", "--seeds", "0,1,2,3,4")

    def shared(cell, category, seed):
        luck = 0.02 * seed * (cell == "b") + 0.0001 * len(category) * seed
        return {"image_auroc": 0.9 - 0.001 * seed * (category == "wood") * (cell == "b"),
                "pixel_ap": 0.5 + luck}  # fmt: skip

    finish_grid(study, shared)
    warnings = [
        b.text
        for s in report_of(tmp_path).sections
        for b in s.blocks
        if isinstance(b, Text) and b.warning and "several categories at once" in b.text
    ]
    (said,) = warnings
    assert said.startswith("Pixel AP: a seed seems to move several categories at once")
    assert "“b” (p < 0.001)" in said


def test_a_half_done_study_compares_only_what_both_cells_have(grid, tmp_path):
    def half(cell, category, seed):
        return cell != "no HSAS" or (category == "dial" and seed < 2)

    finish_grid(grid, metrics, only=half)
    report = report_of(tmp_path)
    rows = table(report, "Cells beside the reference")
    assert rows["no HSAS"][0] == "2 of 8"
    assert rows["no HSAS"][5] == "-10.00 [-10.00, -10.00]"
    (results,) = (t for t in report.tables if t.title == "Cells beside the reference")
    assert any("their means are not comparable" in note for note in results.notes)
    assert report.state.startswith("18 of 24 fits finished")


def test_a_study_that_nobody_began_has_a_report(grid, tmp_path):
    report = report_of(tmp_path)
    assert report.state.startswith("0 of 24 fits finished")
    assert "nothing to compare" in " ".join(texts(report))


def test_one_cell_alone_has_its_means_beside_the_papers_categories(tmp_path):
    space = tmp_path / "main.py"
    write_space(space, "How well?", CELLS={"FFC-AD": {}}, FIXED=FIXED, TABLES=("4", "6", "10"))
    study = begin(tmp_path, space, "--categories", "wood,dial", "--seeds", "0,1")
    config = dataclasses.replace(study[0], data="mvtec", data_root="/data/mvtec")
    study[3].write_document({**study[3].read_document(), "study": config.to_dict()})
    finish_grid(study, lambda cell, category, seed: metrics("all", category, seed))
    report = report_of(tmp_path)
    assert table(report, "Means over the cases")["FFC-AD"] == [
        "4 of 4", "90.0 ± 0.0", "51.1 ± 0.1", "98.9", "77.0"
    ]  # fmt: skip
    assert "“FFC-AD” has image AUROC 90.0 ± 0.0 % and pixel AP 51.1 ± 0.1 %" in texts(report)[0]
    # Of the two categories the paper has one.
    fourth = table(report, "Table 4 of the paper: pixel AP")
    paper = next(row for row in table_rows("4") if row.name == "wood").values["pixel_ap"]
    assert fourth["wood"] == ["50.1 ± 0.1", percent(paper), plain(points(0.501 - paper))]
    assert list(fourth) == ["wood", "average of these 1"]


def test_failed_fits_are_listed_and_in_no_mean(grid, tmp_path):
    def some(cell, category, seed):
        failing = (cell, category, seed) == ("no HSAS", "wood", 0)
        return "the loss became inf" if failing else metrics(cell, category, seed)

    finish_grid(grid, some)
    report = report_of(tmp_path)
    (ended,) = (t for t in report.tables if t.title == "Stopped early or failed")
    (row,) = ended.rows
    assert [e.text for e in row[1:]] == ["no HSAS", "wood, seed 0", "failed", "10 of 30",
                                         "the loss became inf"]  # fmt: skip
    assert table(report, "Cells beside the reference")["no HSAS"][0] == "7 of 8"


def test_the_paper_protocol_and_a_random_encoder_are_warned_of(grid, tmp_path):
    space = tmp_path / "question.py"
    study = begin(tmp_path / "other", space, "--categories", "wood", "--select-on", "paper")
    finish_grid(study, metrics)
    report = report_of(tmp_path / "other")
    warnings = [b.text for s in report.sections for b in s.blocks
                if isinstance(b, Text) and b.warning]  # fmt: skip
    assert any("chosen and reported on the same images" in w for w in warnings)
    assert any("random weights" in w for w in warnings)


def test_cells_that_the_paper_does_not_tell_apart_have_no_row_of_it(tmp_path):
    cells = {"random": {"batch_size": 4}, "other": {"batch_size": 8}}
    space = tmp_path / "question.py"
    write_space(space, "Which batches?", CELLS=cells, FIXED=FIXED)
    finish_grid(
        begin(tmp_path, space, "--categories", "wood"),
        lambda cell, category, seed: {"image_auroc": 0.9, "pixel_ap": 0.5},
    )
    tables = report_of(tmp_path).tables
    (found,) = (t for t in tables if t.title == "Cells beside the reference")
    assert not any("Paper" in c.title or "sign" in c.title for c in found.columns)


def test_types_of_defect_have_a_table_where_records_have_them(grid, tmp_path):
    finish_grid(grid, metrics)
    ledger = grid[-1]
    for record in ledger.read_all(ledger.keys())[0]:
        scratch = {"images": 3, "image_auroc": 0.8, "pixel_ap": 0.25 + record.seed / 100}
        ledger.write(dataclasses.replace(record, report_types={"scratch": scratch}))
    report = report_of(tmp_path)
    (types,) = (t for t in report.tables if t.title == "Pixel AP per type of defect")
    assert [[e.text for e in row] for row in types.rows] == [
        ["dial", "scratch", "3", "26.5", "26.5", "26.5"],
        ["wood", "scratch", "3", "26.5", "26.5", "26.5"],
    ]


def test_cost_counts_what_was_spent_and_what_was_saved(tmp_path):
    study = search_of_six(tmp_path, stopped=2)
    storage = Storage(tmp_path / "runs")
    ledger = study[-1]
    # One of another study: it was not paid for here.
    key = ledger.keys()[0]
    ledger.write(dataclasses.replace(ledger.read(key), study="earlier"))
    cost = spent(read_results(storage, "made"))
    assert cost.fits["finished"] == 11
    assert cost.fits["not begun"] == 1
    assert cost.seconds == 600.0
    assert (cost.reused_fits, cost.reused_seconds) == (1, 60.0)
    # One case of 30 iterations at 2 seconds each was not done.
    assert (cost.budget.stopped, cost.stopped_seconds) == (30, 60.0)


def test_a_search_ranks_finished_configurations_by_the_select_split(tmp_path):
    search_of_six(tmp_path, stopped=5)
    report = report_of(tmp_path)
    rows = table(report, "Finished configurations")
    assert [row[0] for row in rows.values()] == ["4", "3", "2", "1", "0"]
    assert rows["1"][2:] == ["20.0", "40.0", "40.0"]
    said = " ".join(texts(report))
    assert "Best of 5 finished configurations by select_pixel_ap: trial 4 with 20.0 %" in said
    assert "at least 20 finished trials but got 5" in said
    assert "Kendall's tau 1.00" in said


def test_the_report_of_a_running_study_is_written_and_not_logged(grid, tmp_path, capsys):
    finish_grid(grid, metrics)
    documents = grid[3]
    before = sorted(p for p in (tmp_path / "runs").rglob("*") if p.is_file())
    lease = Waiter(documents.storage, documents.driver, {"study": "made"}).attempt()
    try:
        code = main(["report", "made", "--storage", str(tmp_path / "runs"), "--output",
                     str(tmp_path / "out")])  # fmt: skip
    finally:
        lease.release()
    assert code == 0
    out = capsys.readouterr().out
    assert "not in MLflow: a driver runs the study" in " ".join(out.split())
    after = sorted(p for p in (tmp_path / "runs").rglob("*") if p.is_file())
    assert [p for p in after if "lease" not in p.name] == [
        p for p in before if "lease" not in p.name
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "run by process" in page
    markdown = (tmp_path / "out" / "report.md").read_text()
    for picture in (tmp_path / "out" / "pictures").iterdir():
        assert f"(pictures/{picture.name})" in markdown


def test_one_format_is_written_alone(grid, tmp_path, capsys):
    finish_grid(grid, metrics)
    folder = tmp_path / "out"
    flags = ["--storage", str(tmp_path / "runs"), "--no-mlflow", "--output", str(folder)]
    assert main(["report", "made", "--format", "html", *flags]) == 0
    assert [p.name for p in folder.iterdir()] == ["report.html"]
    assert "MLflow" not in capsys.readouterr().out


def test_without_images_or_checkpoints_the_sheet_is_left_out_with_a_reason(grid, tmp_path):
    finish_grid(grid, metrics)
    said = texts(report_of(tmp_path, pictures=True))
    assert any(t.startswith("No sheet of images: wood: its images are not those") for t in said)


@pytest.mark.slow
def test_the_report_is_in_mlflow_again_where_mlflow_has_nothing_of_the_study(
    grid, tmp_path, monkeypatch
):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    finish_grid(grid, metrics)
    for name in ("first", "second"):
        uri = f"sqlite:///{tmp_path / name}.db"
        assert main(["report", "made", "--storage", "runs", "--tracking-uri", uri]) == 0
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("made")
        (run,) = client.search_runs([experiment.experiment_id], "tags.level = 'study'")
        names = {Path(f.path).name for f in client.list_artifacts(run.info.run_id, "report")}
        assert names == {"report.html", "report.md", "report.tex", "pictures"}


def test_the_papers_default_is_in_all_of_its_ablations():
    from ffcad.config import TrainConfig

    default = [row for row in table_rows("12", "13", "14", "15", "16") if row.is_of(TrainConfig())]
    assert [row.table for row in default] == ["12", "13", "14", "15", "16"]
    assert {json.dumps(row.values) for row in default} == {
        json.dumps({"image_auroc": 0.989, "pixel_ap": 0.77})
    }
    assert ablation_row(TrainConfig(hsas="1d")).values["pixel_ap"] == 0.767
    assert ablation_row(TrainConfig(head_channels=8)) == ablation_row(TrainConfig())
    assert ablation_row(TrainConfig(ffc_layers=3, hsas="none")) is None


def test_the_papers_categories_average_to_what_it_prints():
    for number in map(str, range(2, 10)):
        rows = {row.name: row.values for row in table_rows(number)}
        average = rows.pop("average")
        assert len(rows) in (12, 15)
        for metric, printed in average.items():
            mean = sum(values[metric] for values in rows.values()) / len(rows)
            assert mean == pytest.approx(printed, abs=0.0011)


def test_the_front_has_what_no_other_beats_in_both():
    found = front_of({0: (1, 0.5), 1: (2, 0.4), 2: (2, 0.7), 3: (3, 0.7), 4: (4, 0.9)})
    assert found == [0, 2, 4]


def test_the_front_tells_configurations_apart_whose_names_round_alike(tmp_path):
    path = tmp_path / "question.py"
    write_space(path, "Which?", FIXED=FIXED)
    with path.open("a") as f:
        f.write('SEARCH = {"hsas_probability": FloatDistribution(0.05, 0.4)}\n')
    drawn = [{"hsas_probability": p} for p in (0.10004, 0.10001, 0.2)]
    finish_search(begin(tmp_path, path), drawn, lambda number, *case: (0.9, 0.5, 0.6)[number])
    report = report_of(tmp_path)
    (front,) = (t for t in report.tables if t.title == "Pareto front")
    # Of equal cost, the best alone.
    assert [[e.text for e in row[1:3]] for row in front.rows] == [["0", "hsas_probability 0.1"]]
    (figure,) = (f for f in report.figures if f.title == "Accuracy against cost")
    assert sorted(figure.draw.args[0]) == [0, 1, 2]


def test_the_mean_of_curves_is_taken_at_equal_recall():
    x, y = mean_curve([([0, 1], [1, 0]), ([0, 0.5, 1], [0.5, 0.5, 0.5])], points=3)
    assert x == [0, 0.5, 1]
    assert y == [0.75, 0.5, 0.25]


def test_numbers_are_written_as_the_paper_does_and_zero_has_no_sign():
    assert percent(0.7312) == "73.1"
    assert plain(points(-0.01234)) == "-1.23"
    assert points(0.0123) == "+1.23"
    assert points(-0.00001) == "0.00"
    assert plain(interval(-0.01, 0.02)) == "[-1.00, +2.00]"
    assert p_value(0.0004) == "< 0.001"
    assert [duration(s) for s in (4.21, 125, 3 * 3600 + 1230)] == [
        "4.2 s",
        "2 min 5 s",
        "3 h 20 min",
    ]
