"""The champion's alias: moved to a version, or back to the champion before.

Each version that becomes champion gets a tag with the numbers of all champions before it, ahead of
the alias. It is harmless until the alias moves, and needed from then on.
"""

from study.registry.mlflow_registry import Registry
from study.registry.versions import (
    BEFORE,
    CHALLENGER,
    CHAMPION,
    FORCED,
    MOST_BEFORE,
    ROLLED_BACK,
    UNDECIDED,
    VERDICT,
    RegistryError,
    Version,
)


def crown(registry: Registry, version: Version) -> Version:
    """Makes a version the champion; its tag `gate` then gets the word of the tag `verdict`."""
    before, tags = registry.champion(version.name), {ROLLED_BACK: None}
    if before is not None and before.number != version.number:
        tags[BEFORE] = _written([*before.champions_before, before.number][-MOST_BEFORE:])
        # Which a roll-back that was broken off may have left; it is replaced, and not rolled back.
        registry.tag(before, {ROLLED_BACK: None})
    version = registry.tag(version, tags)
    registry.point(CHAMPION, version)
    return complete(registry, version)


def complete(registry: Registry, version: Version) -> Version:
    """Does what is left to do once the alias has moved to a version."""
    registry.unpoint(CHALLENGER, version)
    # Without a verdict somebody has pointed the alias at it by hand.
    return registry.tag(version, {"gate": version.tags.get(VERDICT) or FORCED})


def roll_back(registry: Registry, name: str, reason: str) -> tuple[Version, Version]:
    """Makes the champion before this one champion again.

    Returns:
        The champion that was, and the one that is.

    Raises:
        RegistryError: if there is no champion, none before it, or another one by now.
    """
    registry.known_versions(name)
    champion = registry.champion(name)
    if champion is None:
        raise RegistryError(f"{name} has no champion; promote a study to have one")
    if champion.gate in UNDECIDED:
        # Else its promotion, given again, would take it for one that nobody has rolled back.
        champion = complete(registry, champion)
    versions = {version.number: version for version in registry.versions(name)}
    line, former = champion.champions_before, None
    while line and former is None:
        former = versions.get(line.pop())  # None where somebody deleted it.
    if former is None:
        raise RegistryError(
            f"version {champion.number} of {name} has no champion before it to roll back to; "
            "promote another one"
        )
    # Before the alias moves: given again after that, the command would go back one further.
    registry.tag(champion, {ROLLED_BACK: reason})
    registry.tag(former, {BEFORE: _written(line), ROLLED_BACK: None})
    now = registry.champion(name)
    if now is None or now.number != champion.number:
        registry.tag(champion, {ROLLED_BACK: None})
        raise RegistryError(
            f"the champion of {name} changed meanwhile, from version {champion.number} to "
            f"{now.number if now else 'none'}; nothing was rolled back"
        )
    look = f"look with --list which version of {name} is the champion now"
    registry.point(CHAMPION, former, then=look)
    return registry.version(name, champion.number), registry.version(name, former.number)


def _written(line: list[int]) -> str:
    return ",".join(str(number) for number in line)
