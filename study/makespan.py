"""How long fits take together on several machines, and the least that they could.

A machine is whatever does one fit at a time: a GPU, a part of one, a core.
"""

import heapq
from collections.abc import Sequence


def makespan(durations: Sequence[float], machines: int) -> float:
    """From beginning to end, where each machine takes the next fit when it is free.

    Args:
        durations: of the fits, in the order in which they are handed out.
        machines: that there are.
    """
    free = [0.0] * machines
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def lower_bound(durations: Sequence[float], machines: int) -> float:
    """What no order and no assignment can fall short of, as long as no fit is divided.

    The largest of three (Graham, SIAM J. Appl. Math. 17, 1969, has the first two): the mean load of
    a machine; the longest fit; and, where there are more fits than machines, the last two of the
    m + 1 longest ones, because two of these share one of the m machines.

    Args:
        durations: of the fits, in any order.
        machines: that there are.
    """
    longest = sorted(durations, reverse=True)
    bounds = [sum(longest) / machines, *longest[:1]]
    if len(longest) > machines:
        bounds.append(longest[machines - 1] + longest[machines])
    return max(bounds)


def whole_fits_bound(durations: Sequence[float], machines: int) -> float:
    """A lower bound that knows that fits are whole: at least as high as `lower_bound`.

    Of the k m + 1 longest fits some machine gets k + 1, which take no less than the k + 1 shortest
    of these. It is what keeps ten equal fits on nine machines at two rounds.

    Args:
        durations: of the fits, in any order.
        machines: that there are.
    """
    longest = sorted(durations, reverse=True)
    rounds = range(-(-len(longest) // machines))
    sums = [sum(longest[k * (machines - 1) : k * machines + 1]) for k in rounds]
    return max([sum(longest) / machines, *sums])
