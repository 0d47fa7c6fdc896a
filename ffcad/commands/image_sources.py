"""Which image files a command inspects, with their masks and the names of their pictures."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ffcad.commands.arguments import UsageError
from ffcad.datasets.images import is_image_file

SCORES = "scores.csv"
PICTURES = "pictures"  # below the output folder: what lies beside it may be the user's own


@dataclass(frozen=True)
class Source:
    """An image file to inspect; `name` is its path below the argument that named it."""

    path: Path
    name: Path


def find_sources(paths: list[Path], out: Path) -> list[Source]:
    """The files that the arguments name: folders are searched for visible image files.

    Args:
        paths: files, taken whatever their suffix, and folders.
        out: output folder; the pictures of an earlier call below it, which its `scores.csv` tells
            of, are left out.

    Raises:
        UsageError: if a path is not there, or a folder has no image.
    """
    earlier = (out / PICTURES).resolve() if (out / SCORES).is_file() else None
    sources = []
    for path in paths:
        if path.is_dir():
            found = [
                Source(file, file.relative_to(path))
                for file in sorted(path.rglob("*"))
                if is_image_file(file)
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and earlier not in file.resolve().parents
            ]
            if not found:
                raise UsageError(f"folder {path}: no image in it")
            sources += found
        elif path.is_file():
            sources.append(Source(path, Path(path.name)))
        else:
            raise UsageError(f"{path}: no such file or folder")
    return sources


def find_masks(folder: Path, sources: list[Source]) -> dict[Path, Path]:
    """The mask files of the images that have one: image's path -> mask's path.

    Raises:
        UsageError: if the folder is not there, or holds no image's mask.
    """
    if not folder.is_dir():
        raise UsageError(f"--masks {folder}: no such folder")
    files = {
        file.relative_to(folder).with_suffix(""): file
        for file in folder.rglob("*")
        if is_image_file(file)
    }
    masks = {}
    for source in sources:
        stem = source.name.with_suffix("")
        mask = files.get(stem) or files.get(stem.with_name(f"{stem.name}_mask"))
        if mask is not None:
            masks[source.path] = mask
    if not masks:
        stem = sources[0].name.with_suffix("")
        raise UsageError(
            f"--masks {folder}: no image has a mask there; {sources[0].path} would have "
            f"{folder / stem}.png or {folder / stem}_mask.png"
        )
    return masks


def picture_names(names: Iterable[Path]) -> list[Path]:
    """Where each image's picture goes below the output folder; no two the same."""
    taken: dict[Path, None] = {}
    for name in names:
        place = PICTURES / name
        target, n = place.with_suffix(".png"), 1
        while target in taken:
            n += 1
            target = place.with_name(f"{name.stem}-{n}.png")
        taken[target] = None
    return list(taken)


def refuse_overwriting(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Whoever names a folder twice loses no photo.

    Args:
        targets: files that are to be written.
        inputs: files that are read: images, masks.

    Raises:
        UsageError: if a target is an input, under whatever name.
    """
    read = {identity for path in inputs if (identity := _identity(path)) is not None}
    for target in targets:
        if _identity(target) in read:
            raise UsageError(
                f"{target} would be overwritten, which is an image or a mask that was given; give "
                "--out another folder"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file has under each of its names, links and other cases; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
