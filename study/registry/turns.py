"""Who may decide about a model: one promotion at a time, in the order of their versions' numbers.

A version's number is a ticket that the registry gives to one alone. Who has just created a version
waits until no earlier one is pending, and every later one waits for it. A promotion whose process
is no more is passed over; when its command is given again, later ones may have gone ahead. So who
comes back says first that it is pending, and then looks: if a later one is pending too, which may
have passed it over before, it steps back until that one is done.
"""

import random
import time
from collections.abc import Callable

from study.lease_holders import describe
from study.processes import this_process
from study.registry.champions import complete
from study.registry.mlflow_registry import Registry
from study.registry.versions import (
    CHALLENGER,
    CHAMPION,
    DISCARDED,
    PENDING,
    UNDECIDED,
    WAITING,
    RegistryError,
    Version,
    minutes_old,
    promoter_tag,
)

WAIT_SECONDS, LOOK_SECONDS = 600.0, 2.0


def wait_turn(
    registry: Registry,
    version: Version,
    *,
    seconds: float = WAIT_SECONDS,
    tell: Callable[[str], None] = lambda line: None,
) -> Version:
    """Waits until this process alone may decide about a version's model.

    Args:
        registry: holds it.
        version: new and pending, or left undecided or refused earlier.
        seconds: to wait at most.
        tell: called once if there is something to wait for.

    Returns:
        The version, pending and this process's.

    Raises:
        RegistryError: if another process is at this version, or the wait was too long.
    """
    mine = version.tags.get("promoter") == promoter_tag()
    if version.gate in UNDECIDED and not mine and not version.is_left:
        raise RegistryError(_at_work(version))
    fresh = mine and version.gate == PENDING
    end, told = time.monotonic() + seconds, False
    while True:
        if not fresh:
            version = registry.tag(version, {"promoter": promoter_tag(), "gate": PENDING})
        ahead = _ahead(registry, version, fresh)
        if not ahead:
            return version
        if not fresh:
            version = registry.tag(version, {"gate": WAITING})
        if not told:
            tell(f"waiting for version {ahead[0].number}, which {_whose(ahead[0])} promotes")
            told = True
        if time.monotonic() >= end:
            raise RegistryError(_at_work(ahead[0]))
        # Not in step with another one that steps back.
        time.sleep(min(LOOK_SECONDS, seconds / 10) * random.uniform(0.5, 1.0))


def check_ours(registry: Registry, version: Version) -> None:
    """Looks whether a version is still pending and this process's, before that counts.

    Raises:
        RegistryError: if somebody discarded it or took it over.
    """
    now = registry.version(version.name, version.number)
    if now.gate != PENDING or now.tags.get("promoter") != promoter_tag():
        raise RegistryError(
            f"version {version.number} of {version.name} was discarded or taken over meanwhile; "
            "nothing was changed"
        )


def discard(registry: Registry, name: str, number: int) -> Version:
    """Gives up a version that its promoter has left, so that nobody waits for it.

    Returns:
        The version as it is then; one that was the champion already is said to be decided instead.

    Raises:
        RegistryError: if it is not undecided, or its process runs on this machine.
    """
    version = registry.version(name, number)
    if version.gate not in UNDECIDED:
        raise RegistryError(
            f"version {number} of {name} is not pending: its gate says {version.gate or 'nothing'}"
        )
    here = version.promoter.get("place") == this_process()["place"]
    if here and not version.is_left:
        raise RegistryError(f"{_at_work(version)}; stop that process first")
    if CHAMPION in version.aliases:
        return complete(registry, version)
    registry.unpoint(CHALLENGER, version)
    return registry.tag(version, {"gate": DISCARDED})


def _ahead(registry: Registry, version: Version, fresh: bool) -> list[Version]:
    return [
        other
        for other in registry.versions(version.name)
        if other.gate == PENDING
        and (other.number < version.number or (other.number > version.number and not fresh))
        and not other.is_left
    ]


def _whose(version: Version) -> str:
    return describe(version.promoter)


def _at_work(version: Version) -> str:
    name = version.name
    return (
        f"version {version.number} of {name} is being promoted by {_whose(version)}, begun "
        f"{minutes_old(version)} ago; wait for it, or, if that process is no more, give --discard "
        f"{name}/{version.number}"
    )
