"""Models with made-up figures for a registry: the detectors are real, nothing was trained."""

import io
import subprocess
import sys
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from rich.console import Console

from ffcad.calibration import Calibration
from ffcad.config import TrainConfig
from ffcad.datasets import load_category
from ffcad.detector import Detector
from ffcad.model import FFCAD
from study.registry.bootstrap import ScoredImages
from study.registry.gate import figures
from study.registry.mlflow_registry import Registry
from study.registry.scoring import Speed
from study.registry.source import Made, files_mb
from study.registry.versions import BEFORE

NAME = "ffcad-made-dial"
CONFIG = TrainConfig(
    image_size=32, autoencoder_channels=16, head_channels=8, ffc_layers=1, global_ratio=0.0
)
CALIBRATION = Calibration(
    image_threshold=0.5,
    pixel_threshold=0.5,
    rule="false_alarm_rate",
    false_alarm_rate=0.2,
    normal_images=4,
    defective_images=0,
    normal_scores=(0.1, 0.2, 0.3, 0.4),
)


def detector(seed=0):
    torch.manual_seed(seed)
    return Detector(FFCAD(CONFIG), CALIBRATION, use_head=True, device="cpu")


@cache
def deciding_images(image_size):
    return load_category("synthetic", None, "dial", image_size, select_on="holdout").report


class MadeSource:
    """A source whose figures on the images that decide are given, not measured.

    Args:
        folder: for the experiment's files.
        identity: of what is promoted.
        skill: 1 for a model that sees everything, -1 for one that sees the opposite.
        seen: digests of the images that it was made of.
        speed: milliseconds of an image.
    """

    name, experiment, study_id = NAME, "made", None
    why_refused, decided_on = None, "the report split"

    def __init__(self, folder, identity, skill=1, seen=("none",), speed=10.0):
        self.folder, self.identity, self.skill = folder, identity, skill
        self.seen, self.speed = seen, speed
        self.made = 0

    def deciding_images(self, image_size):
        return deciding_images(image_size)

    def make(self):
        self.made += 1
        return made(self.identity, self.skill, self.seen, self.speed)


@cache
def made(identity, skill, seen, speed):
    images, one = deciding_images(CONFIG.image_size), detector()
    scored = ScoredImages(
        scores=skill * images.labels.astype(float),
        labels=images.labels,
        maps=skill * images.masks.astype(np.float32),
        masks=images.masks,
        groups=np.arange(len(images.labels)),
    )
    return Made(
        detector=one,
        example=np.asarray(images.images[0]),
        seen=seen,
        scored=scored,
        figures=tuple(figures(scored)),
        speed=Speed(
            latency_ms=speed, images_per_second=50.0, peak_memory_mb=100.0, machine="line-3, CPU"
        ),
        size_mb=files_mb(one),
        tags={"study": "made", "category": "wood", "fit_key": identity, "select_on": "holdout"},
        description=f"Made as {identity}.",
    )


def state(uri):
    """What a registry says of the model: number -> gate, aliases, champions before."""
    return {
        version.number: (version.gate, version.aliases, version.tags.get(BEFORE, ""))
        for version in Registry(uri).versions(NAME)
    }


class Failing:
    """A client that dies at one writing call: the n-th, or the first of a name.

    Args:
        client: of MLflow.
        at: number from 0 on, or name.
        before: whether the call has no effect; else only its answer is lost.
        raised: instead of that; the registry itself stays up.
    """

    READS = ("get_", "search_", "list_", "download_")

    def __init__(self, client, at, before, raised=None):
        self.client, self.at, self.before, self.calls, self.dead = client, at, before, 0, False
        self.raised = raised

    def __getattr__(self, name):
        method = getattr(self.client, name)

        def call(*arguments, **more):
            if self.dead:
                raise ConnectionError("the registry is down")
            if name.startswith(self.READS):
                return method(*arguments, **more)
            if self.at in (name, self.calls):
                self.at, self.dead = None, self.raised is None
                if not self.before:
                    method(*arguments, **more)
                raise self.raised or ConnectionError("the registry is down")
            self.calls += 1
            return method(*arguments, **more)

        return call


def printed(lines):
    """What a console of 80 columns shows."""
    console = Console(width=80, file=io.StringIO())
    for line in lines:
        console.print(line, highlight=False, markup=False)
    return console.file.getvalue()


@contextmanager
def other_process():
    """A process that does nothing, as the tag of a promoter; it is gone afterwards."""
    code = (
        "import json; from study.processes import this_process; "
        "print(json.dumps(this_process(), sort_keys=True), flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
