"""Nodes of a cluster that get no further trial of a study."""

from collections.abc import Callable


class LeftOut:
    """The nodes that turned out wrong after the study had begun: no trial is placed there again.

    Args:
        say: shows the user a line.
        others: the ids of the nodes that trials can run on.
    """

    def __init__(
        self, say: Callable[[str], None] = print, others: Callable[[], set[str]] = set
    ) -> None:
        self._say, self._others = say, others
        self._why: dict[str, str] = {}

    @property
    def ids(self) -> list[str]:
        """Of the nodes."""
        return sorted(self._why)

    def add(self, node: str, why: str) -> str | None:
        """Leaves a node out.

        An autoscaler puts a new node in the place of one that gets no trials, so wrong ones could
        come for ever, and be paid for.

        Args:
            node: its id.
            why: what it says of itself.

        Returns:
            Why the study cannot go on, where more nodes were wrong than are right; else None.
        """
        if node not in self._why:
            self._why[node] = why
            self._say(f"A node is left out from now on: {why}")
        right = len(self._others() - set(self._why))
        if len(self._why) <= right:
            return None
        wrong = f"{len(self._why)} node{'s' * (len(self._why) > 1)} cannot do this study's fits"
        return f"{wrong}, and {right} can: {why}"
