import pytest

from study.grids import factorial, leave_one_out


def test_a_factorial_varies_the_last_knob_fastest():
    cells = factorial({"global_ratio": (0.25, 0.5), "ffc_layers": (1, 2)})
    assert list(cells.items()) == [
        ("global_ratio 0.25, ffc_layers 1", {"global_ratio": 0.25, "ffc_layers": 1}),
        ("global_ratio 0.25, ffc_layers 2", {"global_ratio": 0.25, "ffc_layers": 2}),
        ("global_ratio 0.5, ffc_layers 1", {"global_ratio": 0.5, "ffc_layers": 1}),
        ("global_ratio 0.5, ffc_layers 2", {"global_ratio": 0.5, "ffc_layers": 2}),
    ]


def test_each_cell_that_leaves_one_out_differs_from_the_full_method_in_that_alone():
    full = {"global_ratio": 0.25, "hsas": "2d"}
    cells = leave_one_out(full, {"no HSAS": {"hsas": "none"}, "SGD": {"optimizer": "sgd"}})
    assert list(cells.items()) == [
        ("full", full),
        ("no HSAS", {"global_ratio": 0.25, "hsas": "none"}),
        ("SGD", {**full, "optimizer": "sgd"}),
    ]


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ({"full": {"hsas": "none"}}, "a cell of `without` is called 'full'"),
        ({"no HSAS": {"hsas": "2d"}}, "cell 'no HSAS' is the full method"),
    ],
)
def test_a_cell_that_hides_or_repeats_the_full_method_is_refused(without, message):
    with pytest.raises(ValueError, match=message):
        leave_one_out({"hsas": "2d"}, without)
