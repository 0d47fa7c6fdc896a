import itertools

import numpy as np
import pytest

from study.grids import factorial, fractional_factorial, leave_one_out


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


FACTORS = {
    "hsas": ("none", "2d"), "ffc_layers": (1, 2), "optimizer": ("sgd", "adamw"),
    "ffc_encoder": (False, True), "batch_size": (4, 8),
}  # fmt: skip


def test_half_of_a_factorial_still_tells_every_factor_apart():
    """Of a 2^(4-1) design with d = abc: eight cells, levels balanced and orthogonal."""
    factors = dict(list(FACTORS.items())[:4])
    cells = fractional_factorial(factors, ["d=abc"])
    assert len(cells) == 8
    assert set(cells) < set(factorial(factors))
    signs = np.array([[1 - 2 * (c[k] == v[0]) for k, v in factors.items()] for c in cells.values()])
    assert (signs.T @ signs == 8 * np.eye(4)).all()
    assert (signs.prod(axis=1) == 1).all()


def test_each_generator_halves_the_cells():
    cells = fractional_factorial(FACTORS, ["d=ab", "e=ac"])
    assert len(cells) == 8
    for knob, other in itertools.combinations(FACTORS, 2):
        # All four combinations of two factors, each twice.
        pairs = [(cell[knob], cell[other]) for cell in cells.values()]
        assert sorted(map(pairs.count, set(pairs))) == [2] * 4
    assert fractional_factorial(FACTORS, []) == factorial(FACTORS)


@pytest.mark.parametrize(
    ("factors", "generators", "message"),
    [
        (FACTORS, ["e=x"], "generator 'e=x' must be one letter"),
        (FACTORS, ["e=aab"], "generator 'e=aab' must be one letter"),
        (FACTORS, ["e abcd"], "generator 'e abcd' must be one letter"),
        (FACTORS, ["e=abc", "e=bcd"], "two generators set the same factor"),
        (FACTORS, ["d=ab", "e=ad"], "generator 'e=ad' has a factor that a generator sets"),
        (FACTORS, ["e=a"], "factors a and e cannot be told apart"),
        (FACTORS, ["d=abc", "e=abc"], "factors d and e cannot be told apart"),
        ({"ffc_layers": (1, 2, 3)}, [], "ffc_layers must have two values but has 3"),
    ],
)
def test_a_fraction_that_hides_a_factor_is_refused(factors, generators, message):
    with pytest.raises(ValueError, match=message):
        fractional_factorial(factors, generators)
