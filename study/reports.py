"""The names in what a worker reports to Tune, apart from Optuna, which no worker imports."""

import math
import time
from typing import Any

from study.ledger import FAILED, FINISHED, STOPPED

# Heartbeats have a fraction and the id of the node only.
OBJECTIVE, RUNG, FINAL, FRACTION, NODE = "objective", "rung", "final", "fraction", "node"
# How a trial ends without an objective: its configuration cannot work; it was left off, to be gone
# on with; nothing can be kept any more.
ERROR, INTERRUPTED, FATAL = "error", "interrupted", "fatal"
# How it comes back, to be gone on with at once: with the share of a GPU that it needs, having run
# out of memory; or from a node, by its id, that cannot do fits, and WHY.
MORE_GPU, WRONG_NODE, WHY = "more_gpu", "wrong_node", "why"


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What a trial's last result says of it: the fields of its record that change.

    Args:
        result: the last thing that the trainable reported.
    """
    value = result.get(OBJECTIVE)
    ended = time.time()
    if result.get(ERROR):
        return {"state": FAILED, "error": result[ERROR], "ended": ended}
    if not result.get(FINAL):
        return {"state": STOPPED, "ended": ended}
    if value is None or not math.isfinite(value):
        return {"state": FAILED, "error": f"its objective is {value}", "ended": ended}
    return {"state": FINISHED, "value": value, "ended": ended}
