"""The files that hold search spaces, found and read.

A search space is a short Python file in `search_spaces/` (or anywhere, by its path) whose docstring
is its lab card. It is either a search, from which configurations are drawn:

    SEARCH = {"global_ratio": FloatDistribution(0.1, 0.75)}   # knob -> Optuna distribution
    FIXED = {"image_size": 128}                               # knob -> value

or a grid, whose cells are the configurations that its question compares and are all done:

    CELLS = {"no FFC": {"global_ratio": 0.0}, "FFC": {"global_ratio": 0.5}}  # name -> knob -> value
    FIXED = {"image_size": 128}

What is set nowhere is at its default. Cells may be one configuration, as rows of several tables
are; it is done once and keeps all its names. `study/grids.py` makes cells of factors. Which knobs
are conditional is not said here: `TrainConfig` knows it (`active_if`).

A grid may also say what else belongs to its question:

    REFERENCE = "FFC"            # the cell that the others are compared with; else the first one
    NUISANCE = {"sgd_learning_rate": FloatDistribution(0.01, 1, log=True)}  # tuned in every cell
    TABLES = ("14",)             # of the paper, that ask the same; a search may have them, too

What the cells set is the scientific part. A nuisance knob is one that must be chosen well in each
cell for the comparison to be fair: every cell gets the same number of configurations
(`--num-trials`), drawn beforehand, of which the first has the nuisance knobs at their defaults.
"""

import difflib
import importlib.util
from pathlib import Path

import search_spaces
from study.spaces import Space, SpaceError, checked


def load_space(name: str) -> Space:
    """Reads a search space.

    Args:
        name: of a file in `search_spaces/`, or the path of a .py file.

    Raises:
        SpaceError: with the one line that the user sees.
    """
    path = find_space(name)
    label = path.stem
    spec = importlib.util.spec_from_file_location(f"search_space_{label}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:  # the user's own code: whatever it raises is theirs to read
        raise SpaceError(f"search space {name!r}: {type(e).__name__}: {e}") from e
    search, cells = getattr(module, "SEARCH", None), getattr(module, "CELLS", None)
    fixed = getattr(module, "FIXED", {})
    given = [part for part in (search, cells) if part is not None]
    if len(given) == 2:
        raise SpaceError(f"search space {name!r}: has SEARCH and CELLS; keep one")
    if not given or not all(isinstance(part, dict) for part in (*given, fixed)):
        raise SpaceError(
            f"search space {name!r}: needs either a dict SEARCH (knob -> Optuna distribution) or a "
            "dict CELLS (name -> knob -> value), and may have a dict FIXED (knob -> value)"
        )
    if cells == {}:
        raise SpaceError(f"search space {name!r}: CELLS is empty; give at least one cell")
    nuisance, tables = getattr(module, "NUISANCE", {}), getattr(module, "TABLES", ())
    if not isinstance(nuisance, dict):
        raise SpaceError(
            f"search space {name!r}: NUISANCE must be a dict (knob -> Optuna distribution) but got "
            f"{nuisance!r}"
        )
    if isinstance(tables, str) or not all(isinstance(table, str) for table in tables):
        raise SpaceError(
            f"search space {name!r}: TABLES must be a tuple of strings like ('12',) but got "
            f"{tables!r}"
        )
    question = (module.__doc__ or label).strip().splitlines()[0]
    return checked(
        label,
        question,
        search or {},
        fixed,
        cells=cells or {},
        reference=getattr(module, "REFERENCE", None),
        tables=tuple(tables),
        nuisance=nuisance,
    )


def available_spaces() -> list[str]:
    """Names of the search spaces that come with the project."""
    folder = Path(search_spaces.__file__).parent
    return sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")


def find_space(name: str) -> Path:
    """The file of a search space, by a name in `search_spaces/` or a path.

    Raises:
        SpaceError: if there is none, with the nearest name.
    """
    if name.endswith(".py") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise SpaceError(f"search space {name!r}: no such file")
        return path
    if name not in available_spaces():
        near = difflib.get_close_matches(name, available_spaces(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(available_spaces())}"
        raise SpaceError(f"search space {name!r}: unknown; {hint}, or give the path of a .py file")
    return Path(search_spaces.__file__).parent / f"{name}.py"
