import pytest

from ffcad.config import knobs
from study.space_files import load_space
from study.spaces import SpaceError


def test_a_space_is_found_by_its_path(tmp_path):
    path = tmp_path / "wide.py"
    path.write_text(
        '"""Is wider better?"""\n'
        "from optuna.distributions import CategoricalDistribution\n"
        'SEARCH = {"head_channels": CategoricalDistribution((8, 16))}\n'
    )
    space = load_space(str(path))
    assert (space.name, space.question, space.fixed) == ("wide", "Is wider better?", {})
    assert space.values_of("head_channels") == [8, 16]
    assert space.values_of("batch_size") == [knobs()["batch_size"].default]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEARCH = [", "SyntaxError"),
        ("import nosuchthing", "ModuleNotFoundError"),
        ("FIXED = {}", "needs either a dict SEARCH"),
        ("CELLS = ['a']", "a dict CELLS (name -> knob -> value)"),
        ("CELLS = {}", "CELLS is empty; give at least one cell"),
        ("CELLS = {'a': {}}\nNUISANCE = ['a']", "NUISANCE must be a dict (knob -> Optuna distrib"),
        ("CELLS = {'a': {}}\nTABLES = '12'", "TABLES must be a tuple of strings like ('12',) but"),
        ("SEARCH = {}\nCELLS = {'a': {}}", "has SEARCH and CELLS; keep one"),
        (
            "from study.grids import leave_one_out\nCELLS = leave_one_out({}, {'full': {}})",
            "ValueError: a cell of `without` is called 'full'",
        ),
    ],
)
def test_a_file_that_is_no_space_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(SpaceError) as e:
        load_space(str(path))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(SpaceError, match="did you mean 'smoke'"):
        load_space("smok")
