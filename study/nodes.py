"""Whether the nodes of a cluster can do a study's fits: asked of each before its first one.

The driver asks all nodes that are there before anything is made, and starts nothing where one says
no. A node that comes later, of an autoscaler or in place of one that was lost, is asked by the
first process that is to do a fit on it; it is then left out, and the trial goes elsewhere.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ffcad.datasets import DataError, list_categories
from ffcad.datasets.cache import default_cache
from study.config import StudyConfig, StudyError
from study.context import StudyContext
from study.failures import WrongNode, in_one_line, last_line
from study.ledger import LedgerError
from study.machine import code_state
from study.mlflow_reach import mlflow_fault
from study.reports import WHY, WRONG_NODE
from study.storage import Storage, StorageError
from study.trials import StudyFolder

# How long a node may take to answer, most of which is a new process that imports torch.
ANSWER_SECONDS = 60.0
# Between two looks at whether somebody asked for an end meanwhile.
LOOK_SECONDS = 1.0
# A node that has this resource claims GPUs for a trial run of the cluster, and has none.
FAKE_GPUS = "fake_gpus"

# What a node says: 'faults', a line each, and 'gpus', [kind, memory in 10**6 bytes] of each.
Answer = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive.

    Attributes:
        id: Ray's.
        name: host name and address, for people.
        resources: under Ray's names.
    """

    id: str
    name: str
    resources: dict[str, float]


def alive_nodes() -> list[Node]:
    """The nodes that Ray holds for alive."""
    return [
        Node(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def demands_of(config: StudyConfig, weights: list[str]) -> dict[str, Any]:
    """What a study asks of its nodes, as plain values, which code of another state can read.

    Args:
        config: the study, whose document is on the storage.
        weights: files that its encoders are read from.

    Raises:
        LedgerError, StorageError: if the document cannot be read.
    """
    document = StudyFolder(Storage(config.storage), config.name).read_document()
    return {
        "code": code_state(),
        "storage": config.storage,
        "study": config.name,
        "id": document.get("id"),  # Studies of older versions have none.
        "mlflow": config.mlflow_uri,
        "data": config.data,
        "data_root": config.data_root,
        "categories": list(config.categories),
        "folders": [folder for folder in (config.textures, *config.corpus) if folder],
        "files": weights,
    }


def ask_node(demands: dict[str, Any], resources: dict[str, float]) -> Answer:
    """What a node says of itself; runs there, in a process that ends with it.

    Args:
        demands: of the study.
        resources: that the node claims.
    """
    faults = list(_faults(demands))
    if fault := mlflow_fault(demands["mlflow"]):
        faults.append(fault)
    claimed, gpus = int(resources.get("GPU", 0)), []
    if claimed and FAKE_GPUS in resources:
        return {"faults": faults, "gpus": [["fake", 0.0]] * claimed}
    try:
        for i in range(torch.cuda.device_count() if claimed else 0):
            device = torch.cuda.get_device_properties(i)
            gpus.append([device.name, device.total_memory / 1e6])
    except RuntimeError as e:  # of a driver that does not fit, or a device that is lost
        faults.append(f"its GPUs cannot be used: {last_line(e)}")
    else:
        if len(gpus) < claimed:
            faults.append(f"it claims {claimed} GPUs but torch finds {len(gpus)}")
    return {"faults": faults, "gpus": gpus}


def check_this_node(context: StudyContext) -> None:
    """Asks the node that this process is on, unless the driver has asked it already.

    Not for MLflow, which fits do not need: the driver writes there.

    Raises:
        WrongNode: if it cannot do the study's fits.
    """
    if context.demands is None:
        return
    share = context.study.gpus_per_trial
    # One that was asked may have lost its GPU since, and a fit would go on without.
    if share and not torch.cuda.is_available() and FAKE_GPUS not in _own_resources():
        raise WrongNode("a trial has a share of a GPU there, but torch finds none")
    if this_node() in context.asked:
        return
    if faults := list(_faults(context.demands)):
        raise WrongNode("; ".join(faults))


def wrong_node(error: WrongNode) -> dict[str, Any]:
    """What a process says to the driver of the node that it is on, for that to be left out."""
    return {WRONG_NODE: this_node(), WHY: f"{platform.node()}: {error}"}


def _own_resources() -> dict[str, float]:
    nodes = [node for node in ray.nodes() if node["NodeID"] == this_node()]
    return nodes[0]["Resources"] if nodes else {}


def this_node() -> str:
    """Ray's id of the node that this process is on; empty where Ray does not run, and would be
    started."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def ask_nodes(
    demands: dict[str, Any], nodes: list[Node], stopping: Callable[[], bool]
) -> dict[str, Answer]:
    """Asks nodes all at once.

    Args:
        demands: of the study.
        nodes: to be asked; they may be busy.
        stopping: whether somebody asked for an end.

    Returns:
        What each said, by its id; of those that had answered by then, where an end was asked for.

    Raises:
        StudyError: with a line for each fault of each node; one that does not answer has one.
    """
    ask = ray.remote(max_calls=1)(ask_node)
    waiting = {
        ask.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        ).remote(demands, node.resources): node
        for node in nodes
    }
    answers: dict[str, Answer] = {}
    lines = []
    # The driver is MLflow's only writer, and no node that trials run on, perhaps.
    if fault := mlflow_fault(demands["mlflow"]):
        lines.append(f"this machine, where the driver runs: {fault}")
    end = time.monotonic() + ANSWER_SECONDS
    while waiting and time.monotonic() < end and not stopping():
        done, _ = ray.wait(list(waiting), timeout=LOOK_SECONDS)
        for task in done:
            node = waiting.pop(task)
            try:
                answers[node.id] = ray.get(task)
                lines += [f"{node.name}: {fault}" for fault in answers[node.id]["faults"]]
            except ray.exceptions.RayError as e:
                lines.append(f"{node.name}: it cannot be asked: {last_line(e)[:300]}")
    if not stopping():
        silent = f"it did not answer within {ANSWER_SECONDS:.0f} s"
        lines += [f"{node.name}: {silent}" for node in waiting.values()]
    if lines:
        raise StudyError(
            "the cluster cannot do this study, so nothing was started; mend that, then give the "
            "same command:\n" + "\n".join(f"  {line}" for line in lines)
        )
    return answers


def _faults(demands: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the node that this process is on, but its GPUs and the way to MLflow."""
    own = code_state()
    for name, wanted in demands["code"].items():
        # An installed copy knows no revision.
        if own[name] != wanted and None not in (own[name], wanted):
            yield f"its {name}: {own[name]}, but the driver has {wanted}; install the same there"
    yield from _storage_faults(demands)
    yield from _data_faults(demands)
    cache = default_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as e:
        yield f"the cache of decoded images, {cache}, cannot be written: {e.strerror or e}"


def _storage_faults(demands: dict[str, Any]) -> Iterator[str]:
    """That files can be written is not enough: a folder may be the node's own."""
    try:
        storage = Storage(demands["storage"])
        folder = StudyFolder(storage, demands["study"])
        # Looked for first, so that nothing is made below a folder that is not shared.
        if not folder.exists() or folder.read_document().get("id") != demands["id"]:
            yield (
                f"its --storage {storage.where} is not the driver's: the study's document is not "
                "there; give one that all nodes share"
            )
            return
        storage.check()
    except (LedgerError, StorageError) as e:
        yield str(e)
    except Exception as e:  # whatever an object store's package raises
        yield f"--storage {demands['storage']}: {in_one_line(e)}"


def _data_faults(demands: dict[str, Any]) -> Iterator[str]:
    root = demands["data_root"] and Path(demands["data_root"])
    try:
        known = list_categories(demands["data"], root)
        if lacking := [name for name in demands["categories"] if name not in known]:
            yield f"--data-root {root} has no category {', '.join(lacking)} there"
    except DataError as e:
        yield f"--data-root: {e}"
    for name in demands["folders"]:
        if not os.access(name, os.R_OK | os.X_OK):
            yield f"there is no folder {name} that can be read"
    for name in demands["files"]:
        if not os.access(name, os.R_OK):
            yield f"there is no file {name} that can be read"
