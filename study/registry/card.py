"""What a version's tags and its description say of the fit that it was made of."""

import json
from typing import Any

from ffcad.calibration import Calibration
from study.config import StudyConfig
from study.registry.candidates import Candidate
from study.registry.gate import Figure
from study.registry.retraining import Additions
from study.registry.scoring import Speed
from study.registry.terms import Terms

CHOSEN_ON_REPORTED = (
    "its configuration was chosen under 'paper', on the images that are reported on; choose it "
    "under 'holdout' or 'synthetic', or give --force REASON"
)


class Card:
    """A version in words.

    Args:
        candidate: the fit.
        study: whose it is.
        terms: what was asked.
        additions: normal images that it was trained on as well; None without.
    """

    def __init__(
        self, candidate: Candidate, study: StudyConfig, terms: Terms, additions: Additions | None
    ) -> None:
        self.candidate, self.study, self.terms = candidate, study, terms
        self.additions = additions
        self.split = "report" if terms.gate_data is None else "gate"

    def tags(
        self, calibration: Calibration, found: tuple[Figure, ...], speed: Speed, size_mb: float
    ) -> dict[str, str]:
        """Of the version, for programs and for `--compare`."""
        fit = self.candidate.fit
        tags: dict[str, Any] = {
            "study": self.study.name,
            "fit_key": fit.key,
            "configuration": fit.digest,
            "configuration_name": self.candidate.configuration,
            "data": self.study.data,
            "category": fit.category,
            "seed": fit.seed,
            "select_on": self.study.select_on,
            "data_digest": fit.inputs["data"],
            "encoder": fit.configuration["encoder_weights"],
            "encoder_digest": fit.inputs.get("encoder") or "unknown",
            "git_sha": fit.environment.get("git_sha") or "unknown",
            "image_size": self.candidate.config.image_size,
            "threshold_rule": calibration.rule,
            "image_threshold": f"{calibration.image_threshold:.9g}",
            **speed.tags(),
            "size_mb": f"{size_mb:.4g}",
        }
        if calibration.pixel_threshold is not None:
            tags["pixel_threshold"] = f"{calibration.pixel_threshold:.9g}"
        if calibration.false_alarm_rate is not None:
            tags["false_alarm_rate"] = calibration.false_alarm_rate
        tags |= {f"{self.split}_{figure.metric}": figure for figure in found}
        if self.terms.retrains:
            tags["retrained"] = json.dumps(self._retrained())
        return {key: str(value) for key, value in tags.items()}

    def description(
        self, calibration: Calibration, found: tuple[Figure, ...], speed: Speed, size_mb: float
    ) -> str:
        """Of the version, Markdown."""
        fit, study = self.candidate.fit, self.study
        seeds = f", best of {self.candidate.seeds} on the select split"
        normal = f"{calibration.normal_images} normal images"
        rule = f"best F1 on {calibration.defective_images} defective and {normal}"
        if calibration.false_alarm_rate is not None:
            rule = (
                f"set on {normal}; of new ones like them at most "
                f"{calibration.false_alarm_rate:.2%} are expected to be false alarms (not measured)"
            )
        rows = [
            *((f"{self.split} {f.metric}, 95 % interval", f"{f}") for f in found),
            ("thresholds", rule),
            ("image threshold", f"{calibration.image_threshold:.4g}"),
            ("costs measured on", speed.machine),
            ("one image", f"{speed.latency_ms:.1f} ms"),
            ("in batches", f"{speed.images_per_second:.1f} images a second"),
            ("peak memory, all that promoting takes", f"{speed.peak_memory_mb:.0f} MB"),
            ("size", f"{size_mb:.1f} MB"),
            ("digest of the data", fit.inputs["data"]),
            ("frozen encoder", fit.configuration["encoder_weights"]),
            ("digest of the encoder", fit.inputs.get("encoder") or "unknown"),
        ]
        if calibration.pixel_threshold is not None:
            rows.insert(len(found) + 2, ("pixel threshold", f"{calibration.pixel_threshold:.4g}"))
        lines = [
            f"Inspects {fit.category} ({study.data}). Configuration "
            f"'{self.candidate.configuration}' of study '{study.name}', seed {fit.seed}"
            f"{seeds if self.candidate.seeds > 1 else ''}, fit {fit.key}.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
        ]
        if self.terms.retrains:
            again = self._retrained()
            lines += [
                "",
                f"Trained again: {again['factor']:g} times the iterations, "
                f"{again['more_normal_images']} more normal images.",
            ]
        if study.select_on == "paper":
            lines += [
                "",
                "**Chosen on the images that are reported on: its figures are too good.**",
            ]
        if fit.random_encoder:
            lines += ["", "**Its frozen encoder is random: it says little.**"]
        return "\n".join(lines)

    def _retrained(self) -> dict[str, Any]:
        more = self.additions
        return {
            "factor": self.terms.factor or 1.0,
            "more_normal_images": 0 if more is None else len(more.trained),
            "kept_out": 0 if more is None else len(more.kept_out),
        }
