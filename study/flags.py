"""The flags of `study/run.py`."""

import argparse

from ffcad.datasets import DATA_LAYOUTS, HOLDOUTS, PROTOCOLS
from ffcad.pretrain_config import METHODS
from study.config import AUTO, LOG_CHECKPOINTS, OBJECTIVES, StudyError
from study.default_places import STORAGE_DEFAULT, TRACKING_DEFAULT
from study.space_files import available_spaces

DEFAULT_SPACE = "smoke"
# Of a cell with nuisance knobs; as many as configurations of a search.
DEFAULT_DRAWS = 6
# The one whose defects are largest, so that the smallest study sees them.
SYNTHETIC_CATEGORY = "wood"
# Where neither flag nor space says it: made from ImageNet's ResNet-18, or, for the synthetic
# images, which need no download, none.
DEFAULT_ENCODER = "distilled"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> None:
        raise StudyError(f"{message}; --help lists the flags")


def make_parser() -> argparse.ArgumentParser:
    """The flags of `study/run.py`; those that were not given stay out of the namespace."""
    parser = Parser(
        prog="study/run.py",
        description="A study of FFC-AD: searches a space of configurations on a data set's "
        "categories, several at once, and logs every fit to MLflow. The same command again goes "
        "on where it stopped.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", choices=DATA_LAYOUTS, help="layout of the images on disk (default: synthetic)")
    add("--data-root", metavar="DIR", help="folder of the images")
    add(
        "--categories",
        metavar="A,B",
        help=f"default: all; of the synthetic data {SYNTHETIC_CATEGORY}",
    )
    add("--textures", metavar="DIR", help="source images of simulated anomalies (default: none)")
    add(
        "--encoder",
        metavar="E",
        help=f"the frozen encoder: {', '.join(METHODS)} (made first, once), random, torchvision, "
        f"or a file of weights (default: {DEFAULT_ENCODER}; of the synthetic data random)",
    )
    add("--teacher", metavar="FILE", help="ResNet-18 that encoders are made from; or torchvision")
    add("--corpus", metavar="DIR,DIR", help="images for it (default: the normal training images)")
    add("--pretrain", metavar="KNOB=VALUE", action="append", help="of its recipe; may be repeated")
    add("--allow-duplicates", action="store_true", help="an image may be in train and test")
    add(
        "--space",
        metavar="NAME",
        help=f"{', '.join(available_spaces())}, or a .py file (default: {DEFAULT_SPACE})",
    )
    add("--set", metavar="KNOB=VALUE", action="append", help="pins a knob; may be repeated")
    add(
        "--num-trials",
        type=int,
        metavar="N",
        help="configurations of a search, or of each cell that is tuned (default: 6)",
    )
    add("--seeds", metavar="0,1", help="each category is fitted once with each (default: 0)")
    add("--select-on", choices=PROTOCOLS, help="what configurations are chosen on")
    add("--holdout", choices=HOLDOUTS, help="what the holdout protocol halves")
    add("--objective", choices=OBJECTIVES, metavar="M", help=", ".join(OBJECTIVES))
    add("--no-early-stopping", action="store_true", help="no trial is stopped early")
    add(
        "--confirm",
        type=int,
        metavar="K",
        help="then fits the best configuration and the default on K fresh seeds",
    )
    add("--dry-run", action="store_true", help="says what the study would cost, and starts nothing")
    add("--price-per-gpu-hour", type=float, metavar="P", help="for --dry-run: money, too")
    add("--study", metavar="NAME", help="default: named after space, data and a digest")
    add("--resume", metavar="NAME", help="goes on with a study; other flags only as they were")
    add("--extend", action="store_true", help="a study of this name asks the changed question")
    add(
        "--storage",
        metavar="DIR",
        help="of ledger and studies: a folder, s3://bucket/folder or gs://bucket/folder "
        f"({STORAGE_DEFAULT})",
    )
    add(
        "--tracking-uri",
        metavar="URI",
        help=f"of MLflow ({TRACKING_DEFAULT} on the storage; with --resume the study's own)",
    )
    add("--log-checkpoints", choices=LOG_CHECKPOINTS, help="copied into MLflow (default: last)")
    add("--retries", type=int, metavar="N", help="of a trial whose worker dies (default: 2)")
    add("--cpus-per-trial", type=int, metavar="N", help="cores of a trial (default: 1)")
    add(
        "--gpus-per-trial",
        type=_gpus,
        metavar="N",
        help="may be a fraction, or auto, which measures the memory of a fit (default: 1 if any)",
    )
    add("--max-concurrent", type=int, metavar="N", help="trials at once (default: what fits)")
    return parser


def _gpus(text: str) -> float | str:
    try:
        return text if text == AUTO else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number or {AUTO} but got {text!r}") from None
