"""The small studies that kill_test.py kills, each in a folder of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kill_checks import EVALUATE_EVERY, Journal

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
NAME = "killed"
SIZES = {
    "image_size": 32,
    "autoencoder_channels": 16,
    "head_channels": 8,
    "batch_size": 2,
    "autoencoder_iterations": 20,
    "head_iterations": 60,
    "evaluate_every": EVALUATE_EVERY,
    "sgd_learning_rate": 0.01,  # At the default one cell diverges with some kernels.
}
GRID = f'''"""Does it stand being killed?"""
CELLS = {{
    "no FFC": {{"ffc_layers": 1, "global_ratio": 0.0}},
    "half": {{"ffc_layers": 1, "global_ratio": 0.5}},
    "two layers": {{"ffc_layers": 2, "global_ratio": 0.5}},
}}
FIXED = {SIZES!r}
'''
SEARCH = f'''"""Does it stand being killed?"""
from optuna.distributions import CategoricalDistribution, FloatDistribution
SEARCH = {{
    "global_ratio": FloatDistribution(0.2, 0.75),
    "hsas": CategoricalDistribution(("none", "2d")),
}}
FIXED = {{**{SIZES!r}, "ffc_layers": 1}}
'''


@dataclass(frozen=True)
class Kind:
    """A kind of study.

    Attributes:
        space: the file's text.
        flags: of the command.
        trials: how many it has in the end.
    """

    space: str
    flags: str
    trials: int


KINDS = {
    "grid": Kind(GRID, "--categories dial,wood", 6),
    "search": Kind(SEARCH, "--categories dial,wood --num-trials 3", 3),
    "search of one case": Kind(SEARCH, "--categories dial --num-trials 6", 6),
}


class Study:
    """A study in a folder of its own.

    Args:
        folder: to be made.
        kind: one of KINDS.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir()
        self.folder, self.kind = folder, KINDS[kind]
        space = folder / "space.py"
        space.write_text(self.kind.space)
        script = str(ROOT / "benchmarks" / "traced_run.py")
        flags = ["--study", NAME, "--space", str(space), *self.kind.flags.split()]
        self.command = [sys.executable, script, *flags]
        (folder / "trace").mkdir()
        self.environment = {
            **os.environ,
            "COLUMNS": "80",
            "OMP_NUM_THREADS": "1",
            "KILL_TEST_TRACE": str(folder / "trace"),
            "FFCAD_CACHE": str(folder / "cache"),
        }

    def start(self) -> subprocess.Popen:
        """The driver, in a process group of its own."""
        with open(self.folder / "output.txt", "ab") as output:
            return subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,
            )

    def records(self) -> dict[str, dict]:
        """Fit key -> record."""
        paths = (self.folder / "runs" / "ledger").glob("*/record.json")
        return {path.parent.name: json.loads(path.read_text()) for path in paths}

    def traces(self) -> dict[str, list[int]]:
        """Fit key -> iterations in the order in which they were done, repeated ones included."""
        return {
            path.name: [int(line.split()[0]) for line in path.read_text().splitlines()]
            for path in (self.folder / "trace").iterdir()
        }

    def journal(self) -> Journal:
        """Optuna's journal where the driver has it."""
        found = list((self.folder / "cache" / "optuna").glob(f"*/{NAME}.journal"))
        return Journal(found[0] if found else self.folder / "none")

    def trials(self) -> list[dict]:
        """The documents of the study's trials."""
        paths = (self.folder / "runs" / "studies" / NAME / "trials").glob("[0-9]*.json")
        return [json.loads(path.read_text()) for path in paths]

    def decided(self) -> set[int]:
        """The numbers of the trials that were decided."""
        return {d["number"] for d in self.trials() if d["state"] != "begun"}

    def finish(self) -> None:
        """Gives the command until it is done."""
        process = self.start()
        if code := process.wait(timeout=1200):
            raise SystemExit(f"exit code {code}:\n{(self.folder / 'output.txt').read_text()}")
