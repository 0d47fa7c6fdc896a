"""What a version of a registered model is: its tags, and the words in them."""

import dataclasses
import json
import re
import time
from dataclasses import dataclass
from typing import Any

from study.processes import ended_with_its_start, is_gone, this_process

CHAMPION, CHALLENGER = "champion", "challenger"
# The words of the tag `gate`. One that waits for later ones is passed over by them.
PENDING, WAITING = "pending", "waiting"
FIRST, PASSED, REFUSED, FORCED, DISCARDED = "first", "passed", "refused", "forced", "discarded"
UNDECIDED = (PENDING, WAITING)
# What was decided, written after all that belongs to it; `gate` gets it once that is done.
VERDICT = "verdict"
# The tag with the numbers of the champions before a version, the last one at its end; so many.
BEFORE, MOST_BEFORE = "champions_before", 50
# Why a version is no longer the champion; gone when it is again.
ROLLED_BACK = "rolled_back"
# The tag with a digest of the detector's files.
DETECTOR = "detector_digest"
# The images that a version was made of, a file of its run: a digest a line.
SEEN = "seen_images.txt"


class RegistryError(RuntimeError):
    """What the registry refuses or cannot do; one line says what to do."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A model's version as the registry has it.

    Attributes:
        name: the model's.
        number: the version's.
        aliases: that point at it.
        tags: all of them.
        description: Markdown.
        run: the id of the run that logged it; empty where it has none.
        created: epoch, seconds.
    """

    name: str
    number: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    description: str
    run: str
    created: float

    @property
    def gate(self) -> str:
        """What became of it; empty of a version that somebody else registered."""
        return self.tags.get("gate", "")

    @property
    def shown_tags(self) -> dict[str, str]:
        """All tags that hold: a roll-back that was broken off leaves its reason on the version
        that is the champion still."""
        no_more = {ROLLED_BACK} if CHAMPION in self.aliases else set()
        return {tag: value for tag, value in self.tags.items() if tag not in no_more}

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**dataclasses.asdict(self), "tags": self.shown_tags, "gate": self.gate}

    @property
    def uri(self) -> str:
        """What MLflow loads it by."""
        return f"models:/{self.name}/{self.number}"

    @property
    def promoter(self) -> dict[str, Any]:
        """The process that promotes it, as `this_process` describes it; empty if unknown."""
        try:
            document = json.loads(self.tags.get("promoter", "{}"))
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def is_left(self) -> bool:
        """Whether the process that promotes it is no more, as far as that can be told: a promotion
        has no heartbeat, so a start of the machine has to tell it too."""
        return is_gone(self.promoter) or ended_with_its_start(self.promoter)

    @property
    def champions_before(self) -> list[int]:
        """The numbers of the champions before it, the last one at the end."""
        return [int(part) for part in self.tags.get(BEFORE, "").split(",") if part]


def model_name(data: str, category: str) -> str:
    """A category's model: 'ffcad-<data>-<category>', without what MLflow forbids in a name."""
    return re.sub(r"[/:'\"%]", "-", f"ffcad-{data}-{category}")


def is_of_decision(tag: str) -> bool:
    """Whether a tag tells what one decision was based on: figures, checks, a force's reason."""
    return tag.startswith(("report_", "gate_")) or tag == "force_reason"


def promoter_tag() -> str:
    """This process, as a tag."""
    return json.dumps(this_process(), sort_keys=True)


def minutes_old(version: Version) -> str:
    """For how long a version has been there, for a message."""
    return f"{(time.time() - version.created) / 60:.0f} min"
