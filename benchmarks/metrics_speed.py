"""All image and pixel metrics of 120 maps of 256x256 against two of scikit-learn's.

    python benchmarks/metrics_speed.py [--rounds 5] [--cases usual ties half] [--json]

Ours are `ffcad.metrics.all_metrics`: eight metrics, AUPRO and the greatest F1 among them.
scikit-learn's are `roc_auc_score` and `average_precision_score` of the same pixels, one call each.
Both take turns in one process with one thread; the table gives the median seconds of each, the
ratio of the medians, and the peak of the memory that each allocates on top of its arguments
(measured by tracemalloc in a run of its own, not timed). Every run checks that the two agree.

The cases: "usual", 3 % of the pixels defective and hardly a tie; "ties", the same rounded to 256
levels; "half", nearly half of the pixels defective, the worst case for ours.
"""

import os

# Before NumPy is imported: its libraries read these once.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import time  # noqa: E402
import tracemalloc  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import scipy  # noqa: E402
import sklearn  # noqa: E402
from scipy import ndimage  # noqa: E402
from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: E402

from ffcad.metrics import all_metrics  # noqa: E402

IMAGES, SIDE = 120, 256
# name -> (share of the defective images' pixels that is defective, levels of the scores)
CASES = {"usual": (0.05, None), "ties": (0.05, 256), "half": (0.7, None)}


def make_case(share: float, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, H, W) float32 in (0, 1) and masks (N, H, W) bool; each third image is good."""
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(
        rng.standard_normal((IMAGES, SIDE, SIDE), dtype=np.float32), (0, 8, 8)
    )
    masks = blobs > np.quantile(blobs, 1 - share)
    masks[::3] = False
    logits = rng.standard_normal(masks.shape, dtype=np.float32) + 2 * masks.astype(np.float32)
    maps = 1 / (1 + np.exp(-logits))
    if levels:
        maps = np.round(maps * (levels - 1)) / np.float32(levels - 1)
    return maps, masks


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_mib(function: Callable[[], object]) -> float:
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def measure(maps: np.ndarray, masks: np.ndarray, rounds: int) -> dict[str, float]:
    """Median seconds, their ratio, and peak MiB of both."""
    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    flat_maps, flat_masks = maps.ravel(), masks.ravel()

    def ours() -> dict[str, float]:
        return all_metrics(scores, labels, maps, masks)

    def theirs() -> tuple[float, float]:
        return (
            roc_auc_score(flat_masks, flat_maps),
            average_precision_score(flat_masks, flat_maps),
        )

    peaks = peak_mib(ours), peak_mib(theirs)
    got = ours()
    np.testing.assert_allclose((got["pixel_auroc"], got["pixel_ap"]), theirs(), atol=1e-10)
    times = np.median([(seconds(ours), seconds(theirs)) for _ in range(rounds)], axis=0)
    return {
        "ours_seconds": float(times[0]),
        "scikit_learn_seconds": float(times[1]),
        "ratio": float(times[0] / times[1]),
        "ours_peak_mib": peaks[0],
        "scikit_learn_peak_mib": peaks[1],
    }


def machine() -> str:
    """The processor's name, where the system tells it, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"NumPy {np.__version__}, SciPy {scipy.__version__}, scikit-learn {sklearn.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of both")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1 but got {arguments.rounds}")
    results = {
        name: measure(*make_case(*CASES[name]), arguments.rounds) for name in arguments.cases
    }
    if arguments.json:
        print(json.dumps({"machine": machine(), "cases": results}))
        return
    print(f"{machine()}\n{IMAGES} maps of {SIDE}x{SIDE}, float32, medians of {arguments.rounds}\n")
    print("| case | ours, s | scikit-learn, s | ratio | ours, peak MiB | scikit-learn, peak MiB |")
    print("|---|---|---|---|---|---|")
    for name, row in results.items():
        print(
            f"| {name} | {row['ours_seconds']:.3f} | {row['scikit_learn_seconds']:.3f} "
            f"| {row['ratio']:.3f} | {row['ours_peak_mib']:.0f} "
            f"| {row['scikit_learn_peak_mib']:.0f} |"
        )


if __name__ == "__main__":
    main()
