"""The fall-back from spot to on-demand instances, in Ray's own scheduler."""

from ray.autoscaler._private.node_provider_availability_tracker import (
    NodeProviderAvailabilityTracker,
)
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
from ray.autoscaler.node_launch_exception import NodeLaunchException

from study.spot_fallback import prefer_available

KINDS = {
    "head": {"resources": {"CPU": 0}, "max_workers": 0},
    "gpu_on_demand": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8},
    "gpu_spot": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8},
}
NO_CAPACITY = NodeLaunchException("InsufficientInstanceCapacity", "there are none", None)


def launched(tracker: NodeProviderAvailabilityTracker) -> dict[str, int]:
    """What is launched for three trials of a GPU each."""
    nodes, left = get_nodes_for(
        KINDS,
        {},
        "head",
        8,
        [{"CPU": 1, "GPU": 1}] * 3,
        lambda *args: prefer_available(*args, node_availability_summary=tracker.summary()),
    )
    assert not left
    return dict(nodes)


def test_on_demand_takes_the_place_of_spot_until_that_is_forgotten():
    now = [0.0]
    tracker = NodeProviderAvailabilityTracker(timer=lambda: now[0], ttl=1800)
    assert launched(tracker) == {"gpu_spot": 3}
    tracker.update_node_availability("gpu_spot", 0, NO_CAPACITY)
    assert launched(tracker) == {"gpu_on_demand": 3}
    now[0] = 1801
    assert launched(tracker) == {"gpu_spot": 3}


def test_a_kind_that_holds_nothing_is_not_launched():
    summary = NodeProviderAvailabilityTracker().summary()
    waited = [{"CPU": 1, "GPU": 1}]
    assert prefer_available({"CPU": 4}, waited, "head", node_availability_summary=summary) is None
