"""What a model is asked before it becomes the champion: of anyone that images which it is reported
on did not choose it, and limits; of a later one that it holds against today's champion on images
that made neither."""

import tempfile
from pathlib import Path

from ffcad.datasets import Split
from ffcad.datasets.records import SIMULATED
from ffcad.detector import Detector, DetectorError
from study.registry.gate import Check, compare, refused, within
from study.registry.mlflow_registry import Registry
from study.registry.model_files import ModelFilesError, NoDetectorError, fetch_detector
from study.registry.scoring import at_size, known_paths, score
from study.registry.source import Made, Source
from study.registry.terms import Terms
from study.registry.versions import RegistryError, Version


def examine(
    source: Source, made: Made, champion: Version | None, registry: Registry, terms: Terms
) -> tuple[Check, ...]:
    """All that the gate asks.

    Args:
        source: where the model comes from.
        made: the model.
        champion: of today; None where there is none.
        registry: that has the champion.
        terms: limits and margin.

    Raises:
        RegistryError: if the champion's files cannot be had for now.
        DataError: if the images that decide cannot be used.
    """
    checks = []
    if source.why_refused is not None:
        checks.append(refused("protocol", source.why_refused))
    if champion is not None:
        checks += _comparison(source, made, champion, registry, terms.margin)
    if terms.most_latency_ms is not None:
        checks.append(within("latency", made.speed.latency_ms, terms.most_latency_ms, "ms"))
    if terms.most_size_mb is not None:
        checks.append(within("size", made.size_mb, terms.most_size_mb, "MB"))
    return tuple(checks)


def deciding(source: Source, made: Made) -> str:
    """Which images decide, and how many of them."""
    if made.scored is None:
        return "none"
    defective = int(made.scored.labels.sum())
    normal = len(made.scored.labels) - defective
    masks = ", without masks" if made.scored.masks is None else ""
    return f"{source.decided_on}: {normal} normal, {defective} defective{masks}"


def _comparison(
    source: Source, made: Made, champion: Version, registry: Registry, margin: float
) -> list[Check]:
    """Both on the same images, which must have made neither."""
    number = champion.number
    if made.scored is None:
        return [refused("images", "no images were given that could decide; give --gate-data")]
    try:
        theirs = _fetched(champion, registry)
    except (DetectorError, NoDetectorError) as e:
        return [refused("champion", f"champion version {number} cannot be asked: {e}")]
    except ModelFilesError as e:
        raise RegistryError(f"{e}; when it can be had, give the same command again") from e
    size = theirs.config.image_size
    images, seen = source.deciding_images(size), registry.seen_images(champion)
    checks = []
    own = source.deciding_images(made.detector.config.image_size)
    # What was chosen under 'paper' is refused for that.
    if source.why_refused is None and (twice := known_paths(own, made.seen or ())):
        checks.append(refused("images", _made_of("the model itself", twice, own)))
    if seen is None:
        checks.append(
            refused("images", f"it is not known what champion version {number} was made of")
        )
    elif twice := known_paths(images, seen):
        checks.append(refused("images", _made_of(f"champion version {number}", twice, images)))
    own_size = made.detector.config.image_size
    truth = source.deciding_images(max(size, own_size))
    if size != own_size and SIMULATED in truth.defect_types:
        why = (
            f"champion version {number} sees images of {size} pixels and the model of {own_size}, "
            "and simulated anomalies are others at another size; give --gate-data"
        )
        return [*checks, refused("images", why)]
    scored = score(theirs.predictor.model, images, theirs.predictor.use_head)
    return checks + compare(at_size(made.scored, truth), at_size(scored, truth), margin)


def _fetched(version: Version, registry: Registry) -> Detector:
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch_detector(version.uri, Path(folder), registry.uri)
        return Detector.load(fetched.folder)


def _made_of(model: str, twice: list[str], images: Split) -> str:
    return (
        f"{model} was trained or chosen on {len(twice)} of the {len(images)} images that decide, "
        f"as {twice[0]}; give --gate-data"
    )
