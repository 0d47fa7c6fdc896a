"""What a study's trials run on, settled before the first one starts: this machine, or a cluster
whose nodes are asked first and which may still grow.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import yaml
from ray import tune
from rich.console import Console

from study.config import AUTO, StudyConfig, StudyError
from study.failures import last_line
from study.gpu_memory import begin_measuring, keep_peak, kept_peak, largest_configuration
from study.left_out import LeftOut, selector
from study.machine import code_environment
from study.nodes import LOOK_SECONDS, Node, alive_nodes, ask_nodes, demands_of
from study.packing import (
    Peak,
    Resources,
    chosen_share,
    concurrency,
    gpus_of_trial,
    trials_on,
    whole_gpu,
)
from study.sitting import Sitting
from study.storage import Storage

# Ray's launcher leaves the whole cluster's description there, on the head.
CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")
# How long a cluster may take to start the first node that a trial fits on.
JOIN_SECONDS = 900.0
# What the head has among its resources.
HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class Room:
    """What there is for trials.

    Attributes:
        slots: trials at once; of a cluster that grows, when it is full-grown.
        gpus: of each.
        demands: what a node that joins later must answer; None on one machine.
        asked: ids of the nodes that have answered.
    """

    slots: int
    gpus: float
    demands: dict[str, Any] | None = None
    asked: frozenset[str] = frozenset()


def settle(sitting: Sitting, console: Console, stopping: Callable[[], bool]) -> Room | None:
    """Asks the nodes, chooses the share of a GPU, and counts the trials at once; Ray runs.

    Args:
        sitting: the study.
        console: shows what is waited for.
        stopping: whether somebody asked for an end.

    Returns:
        What there is; None where somebody asked for an end meanwhile.

    Raises:
        StudyError: if no trial fits anywhere, or a node cannot do the study's fits.
    """
    config = sitting.config
    if not os.environ.get("RAY_ADDRESS"):
        nodes = alive_nodes()
        kinds = _own_kinds(nodes[0]) if config.gpus_per_trial == AUTO else {}
        room = Room(*concurrency(config, [node.resources for node in nodes]))
        return _with_share(sitting, console, stopping, room, kinds, None)
    full_grown = _full_grown()
    room = Room(0, _gpus_wanted(config, full_grown))
    nodes = _fitting_nodes(config, room.gpus, full_grown, console, stopping)
    if stopping():
        return None
    weights = [path for path, digest in sitting.inputs.weights.items() if path != digest]
    demands = demands_of(config, weights)
    with console.status("asking the nodes"):
        answers = ask_nodes(demands, nodes, stopping)
    if stopping():
        return None
    console.print(f"All nodes have {_code()}.", highlight=False)
    kinds = {tuple(gpu): node for node, answer in answers.items() for gpu in answer["gpus"]}
    room = Room(0, room.gpus, demands, frozenset(answers))
    return _with_share(sitting, console, stopping, room, kinds, full_grown)


def _code() -> str:
    """The code that this machine has, for the user to compare with what is on his own."""
    code = code_environment()
    if code["git_sha"] is None:
        return "the same code, of no git revision"
    return f"revision {code['git_sha'][:7]} of the code{', edited' if code['git_dirty'] else ''}"


def fitting_nodes(cpus: int, gpus: float) -> list[Node]:
    """The nodes that are there and that a trial fits on.

    Args:
        cpus, gpus: of the trial.
    """
    return [node for node in alive_nodes() if trials_on(node.resources, cpus, gpus)]


def leaving_out(config: StudyConfig, room: Room, console: Console) -> LeftOut:
    """What takes the nodes that turn out wrong while the study runs."""
    return LeftOut(
        lambda line: console.print(line, style="yellow", markup=False, soft_wrap=True),
        lambda: {node.id for node in fitting_nodes(config.cpus_per_trial, room.gpus)},
    )


def placement(cpus: int, gpus: float, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial takes, and where it is not placed, as Tune asks for it.

    Args:
        cpus, gpus: of a trial of the study.
        config: of Tune's trial.
    """
    bundle = {"CPU": cpus, "GPU": gpus_of_trial(gpus, config["gpus"])}
    elsewhere = selector(config["left_out"])
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=elsewhere and [elsewhere])


def _with_share(
    sitting: Sitting,
    console: Console,
    stopping: Callable[[], bool],
    room: Room,
    kinds: dict[tuple[str, float], str],
    full_grown: list[Resources] | None,
) -> Room | None:
    """The room with the GPUs of a trial measured, where that is asked for, and the trials counted.

    Args:
        sitting, console, stopping: as `settle` has them.
        room: so far.
        kinds: of GPUs -> a node that has one.
        full_grown: the cluster's nodes when all are there; None where that is not known.
    """
    config, gpus = sitting.config, room.gpus
    here = [node.resources for node in alive_nodes()]
    if config.gpus_per_trial == AUTO and kinds:
        peaks = _peaks(sitting, console, stopping, kinds)
        if peaks is None:
            return None
        gpus = chosen_share(peaks, full_grown or here, config.cpus_per_trial)
    slots = sum(trials_on(node, config.cpus_per_trial, gpus) for node in here)
    if full_grown is not None:
        most = sum(trials_on(node, config.cpus_per_trial, gpus) for node in full_grown)
        slots = max(slots, most)
    wanted = config.max_concurrent
    if wanted and (full_grown is not None or room.demands is None):
        wanted = min(wanted, slots)
    # Where nobody says how far a cluster grows, the user does.
    return Room(wanted or slots, gpus, room.demands, room.asked)


def _own_kinds(node: Node) -> dict[tuple[str, float], str]:
    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return {(device.name, device.total_memory / 1e6): node.id for device in devices}


def _gpus_wanted(config: StudyConfig, full_grown: list[Resources] | None) -> float:
    """The GPUs of a trial of a cluster, a whole one where the share is still to be measured."""
    if config.gpus_per_trial not in (None, AUTO):
        return config.gpus_per_trial
    nodes = [*(node.resources for node in alive_nodes()), *(full_grown or [])]
    if whole := whole_gpu(nodes, config.cpus_per_trial):
        return whole
    # Who asks for shares on a cluster that nothing is known of means GPUs that are to come.
    return 1.0 if config.gpus_per_trial == AUTO and full_grown is None else 0.0


def _fitting_nodes(
    config: StudyConfig,
    gpus: float,
    full_grown: list[Resources] | None,
    console: Console,
    stopping: Callable[[], bool],
) -> list[Node]:
    """The nodes that a trial fits on; where there is none yet, waits for the first one, which an
    autoscaler starts for a task that asks for as much."""
    cpus = config.cpus_per_trial

    if found := fitting_nodes(cpus, gpus):
        return found
    if full_grown is not None and not any(trials_on(node, cpus, gpus) for node in full_grown):
        concurrency(config, [node.resources for node in alive_nodes()] + full_grown)
    what = f"a node that a trial fits on: {cpus} cores, {gpus:g} GPUs"
    console.print(f"Waiting for {what}", highlight=False)
    demand = ray.remote(lambda: None).options(num_cpus=cpus, num_gpus=gpus).remote()
    end = time.monotonic() + JOIN_SECONDS
    with console.status(f"waiting for {what}"):
        while not (found := fitting_nodes(cpus, gpus)) and not stopping():
            if time.monotonic() > end:
                raise StudyError(
                    f"the cluster has got no {what.removeprefix('a ')}, within "
                    f"{JOIN_SECONDS / 60:.0f} min; `ray status` says what it has and waits for"
                )
            time.sleep(LOOK_SECONDS)
    ray.cancel(demand, force=True)
    return found


def _full_grown() -> list[Resources] | None:
    """The resources of all nodes that a cluster of Ray's launcher can have; None of another."""
    try:
        document = yaml.safe_load(CLUSTER_FILE.expanduser().read_text())
    except OSError:
        return None
    return nodes_of(document, [node.resources for node in alive_nodes()])


def nodes_of(document: dict[str, Any], here: list[Resources]) -> list[Resources] | None:
    """The resources of a cluster's nodes when all have come.

    Args:
        document: the cluster's description, as Ray's launcher completes it.
        here: the nodes that are there. One of unknown resources, as of machines that one owns, is
            taken to be like the largest of them.

    Returns:
        One for each; None where they cannot be told yet.
    """
    most = document["max_workers"]
    workers = [node for node in here if HEAD not in node]
    largest = max(workers, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)), default=None)
    come: list[Resources] = []
    for kind in document["available_node_types"].values():
        resources = kind.get("resources") or largest
        if resources is None:
            return None
        come += [resources] * min(kind.get("max_workers", most), most)
    # The head's own kind is among them; it takes the greatest first, so it is no less than true.
    come.sort(key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)), reverse=True)
    return [*(node for node in here if HEAD in node), *come[:most]]


def _peaks(
    sitting: Sitting,
    console: Console,
    stopping: Callable[[], bool],
    kinds: dict[tuple[str, float], str],
) -> list[Peak] | None:
    """The memory that the largest configuration takes on each kind of GPU, measured where it was
    not before; None where somebody asked for an end."""
    config, storage = sitting.config, Storage(sitting.config.storage)
    largest = largest_configuration(sitting.space)
    peaks, running = [], {}
    for kind, node in kinds.items():
        found = kept_peak(storage, *kind, largest)
        if found is None:
            running[begin_measuring(config, largest, node)] = kind
        else:
            peaks.append(found)
    with console.status("measuring the memory of the largest configuration"):
        while running and not stopping():
            done, _ = ray.wait(list(running), timeout=LOOK_SECONDS)
            for task in done:
                kind = running.pop(task)
                try:
                    peak = ray.get(task)
                except ray.exceptions.RayError as e:
                    raise StudyError(
                        f"--gpus-per-trial {AUTO}: the memory of a fit on {kind[0]} cannot be "
                        f"measured: {last_line(e)[:300]}; give a number"
                    ) from e
                keep_peak(storage, peak, largest)
                peaks.append(peak)
    for task in running:
        ray.cancel(task, force=True)
    return None if running else peaks
