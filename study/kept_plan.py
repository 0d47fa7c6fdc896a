"""The plan that a study is held against afterwards, kept in its document before the first fit."""

from study.costs import estimate_from_history
from study.ledger import Ledger
from study.machine_files import kept_estimate
from study.sitting import Sitting


def keep_plan(sitting: Sitting, slots: tuple[int, float], cluster: bool) -> None:
    """Keeps what the study will cost, once, where the ledger tells it for nothing or a dry run
    found it on this machine: so a report can say how wrong it was.

    Args:
        sitting: the study, with something left to do.
        slots: trials at once, and the GPUs of each.
        cluster: whether they are on other machines than this one, of which a dry run on this one
            tells nothing.
    """
    config, inputs, folder, plan = sitting.config, sitting.inputs, sitting.folder, sitting.plan
    document = folder.read_document()
    if "plan" in document:
        return
    ledger = Ledger(folder.storage)
    found = estimate_from_history(config, sitting.space, inputs, plan, ledger, slots, cluster)
    if found is not None:
        known = found.to_dict()
    else:
        known = None if cluster else kept_estimate(config, inputs)
    if known is not None:
        folder.write_document({**document, "plan": known})
