"""Which kind of machine Ray's autoscaler asks for when the one that it tried is not to be had.

Ray's autoscaler, v1, remembers for half an hour that a kind could not be launched, and does not use
what it knows: of two kinds with the same resources it would ask for the same one for ever. With
`RAY_AUTOSCALER_UTILIZATION_SCORER=study.spot_fallback.prefer_available` in the environment of the
head it asks for the other one, so spot instances that have run out are replaced by on-demand ones.
v2 has no such place: it takes notice only of machines that were given and never came up.
"""

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

Resources = dict[str, float]


def prefer_available(
    node_resources: Resources,
    resources: list[Resources],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple | None:
    """How well a kind of machine suits what is waited for; the greatest one is launched.

    Args:
        node_resources: of such a machine.
        resources: what is waited for.
        node_type: the kind's name in the cluster's file. Of two that are equal in all else, Ray
            takes the one whose name is last in the alphabet.
        node_availability_summary: which kinds could be launched lately.

    Returns:
        Ray's own score, after whether the kind is to be had; None if it holds nothing of it.
    """
    score = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if score is None:
        return None
    # Whether it would waste a GPU comes first, as in Ray's own.
    wastes_none, *fit = score
    known = node_availability_summary.node_availabilities.get(node_type)
    return wastes_none, known is None or known.is_available, *fit
