"""Nodes of a cluster that get no further trial of a study."""

from collections.abc import Callable

# Of a node's labels, the one that Ray gives it by itself.
NODE_ID = "ray.io/node-id"


def selector(left_out: list[str]) -> dict[str, str] | None:
    """What Ray takes for "not there", by nodes' labels; None where no node is left out.

    Args:
        left_out: ids of nodes.
    """
    return {NODE_ID: f"!in({','.join(left_out)})"} if left_out else None


class LeftOut:
    """The nodes that turned out wrong after the study had begun: no trial is placed there again.

    Args:
        say: shows the user a line.
        alive: gives the ids of the nodes that are there and that a trial fits on.
    """

    def __init__(
        self, say: Callable[[str], None] = print, alive: Callable[[], set[str]] = set
    ) -> None:
        self._say, self._alive = say, alive
        self._why: dict[str, str] = {}
        self._seen: set[str] = set()

    @property
    def ids(self) -> list[str]:
        """Of the nodes."""
        return sorted(self._why)

    def look(self) -> None:
        """Notes which nodes are there; called whenever something is to be placed, for nodes come
        and go."""
        self._seen |= self._alive()

    def is_gone(self, node: str) -> bool:
        """Whether a node was there and is no more.

        Args:
            node: its id.
        """
        return node in self._seen and node not in self._alive()

    def add(self, node: str, why: str) -> str | None:
        """Leaves a node out.

        An autoscaler puts a new node in the place of one that gets no trials, so wrong ones could
        come for ever, and be paid for. Those that are there no more count, of both sorts: the wrong
        ones are replaced, and so are spot instances.

        Args:
            node: its id.
            why: what it says of itself.

        Returns:
            Why the study cannot go on, where more nodes were wrong than right; else None.
        """
        if node not in self._why:
            self._why[node] = why
            self._say(f"A node is left out from now on: {why}")
        self.look()
        right = len(self._seen - set(self._why))
        if len(self._why) <= right:
            return None
        wrong = f"{len(self._why)} node{'s' * (len(self._why) > 1)} cannot do this study's fits"
        return f"{wrong}, and {right} could: {why}"
