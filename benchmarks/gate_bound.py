"""How often the gate lets a model pass that is worse by just the margin, and one that is equal.

python benchmarks/gate_bound.py --rounds 300

Scores of two models are drawn, correlated by image (0.6), with given true image AUROCs. Beside the
gate's bound (`study.registry.gate`) stands that of resampling alone. A bound that is what it says
lets a model that is worse by just the margin pass in at most 5 % of the rounds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[1]))

from study.registry.bootstrap import (
    ScoredImages,
    lower_bound,
    resampled_image_auroc,
    resamples,
)
from study.registry.gate import IMAGE_AUROC, compare

MARGIN, CORRELATION = 0.02, 0.6
# True image AUROCs of challenger and champion; the last ones are worse by nothing.
AUROCS = ((0.98, 1.0), (0.93, 0.95), (0.83, 0.85), (0.995, 0.995), (0.95, 0.95), (0.85, 0.85))
IMAGES = (10, 20, 50, 100)


def drawn(aurocs: tuple[float, float], images: int, generator: np.random.Generator) -> list:
    """The two models' scores of as many normal and as many defective images."""
    labels = np.arange(2 * images) >= images
    common = generator.normal(0, CORRELATION**0.5, 2 * images)
    noise = generator.normal(0, (1 - CORRELATION) ** 0.5, (2, 2 * images))
    shifts = 2**0.5 * norm.ppf(np.minimum(aurocs, 1 - 1e-9))
    return [
        ScoredImages(
            scores=common + one + labels * shift,
            labels=labels,
            maps=np.zeros((2 * images, 1, 1)),
            masks=None,
            groups=np.arange(2 * images),
        )
        for one, shift in zip(noise, shifts, strict=True)
    ]


def passes(aurocs: tuple[float, float], images: int, rounds: int) -> tuple[float, float]:
    """The share of rounds in which the challenger passes: by resampling alone, and the gate."""
    generator = np.random.default_rng(0)
    alone = gate = 0
    for _ in range(rounds):
        models = drawn(aurocs, images, generator)
        counts = resamples(models[0].labels, models[0].groups)
        one, other = (resampled_image_auroc(model, counts) for model in models)
        alone += lower_bound(one - other) > -MARGIN
        (check,) = [c for c in compare(*models, MARGIN) if c.name == IMAGE_AUROC]
        gate += check.passed
    return alone / rounds, gate / rounds


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    print(f"| challenger, champion | {' | '.join(f'{n} a class' for n in IMAGES)} |")
    print(f"|---|{'---|' * len(IMAGES)}")
    for aurocs in AUROCS:
        shares = (passes(aurocs, n, rounds) for n in IMAGES)
        cells = " | ".join(f"{alone:.0%}, {gate:.0%}" for alone, gate in shares)
        print(f"| {aurocs[0]:g}, {aurocs[1]:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
