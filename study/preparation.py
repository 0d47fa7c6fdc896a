"""The driver's first phase: the encoders that its trials need, made in parallel as Ray's tasks."""

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import ray
import torch
from rich.console import Console

from study.context import StudyContext
from study.encoder_making import Making
from study.encoders import EncoderNeed, EncoderRecord, EncoderStore
from study.failures import WrongNode, last_line
from study.ledger import FAILED, FINISHED
from study.left_out import LeftOut, selector
from study.nodes import check_this_node, wrong_node
from study.outages import Outages, waiting_out
from study.packing import keep_to_share
from study.reports import FATAL, WHY, WRONG_NODE
from study.storage import Storage, StorageError
from study.trainable import DriverWatch
from study.worker_deaths import MOST_LOSSES

# Seconds between two looks at the cards of what is being made, and between two plain lines.
LOOK_SECONDS, PLAIN_SECONDS = 2.0, 10.0
# How a making ends without having returned: its machine is no more; or its process is not, and why.
LOST_NODE, CRASHED = "lost_node", "crashed"

logger = logging.getLogger(__name__)


class Ending(Protocol):
    """How a sitting is told to end; the search is one.

    Attributes:
        stopping: set, and nothing more is begun.
        fatal: why nothing can be kept any more, in one line.
    """

    stopping: threading.Event
    fatal: str | None


def make_encoder(context: StudyContext, need: EncoderNeed, again: bool) -> dict[str, Any]:
    """What a worker does: makes an encoder, or leaves it off when its driver is to end.

    Args:
        context: the study's.
        need: what is made of what.
        again: whether one that failed in this study is tried again.

    Returns:
        Nothing; or FATAL: why nothing can be kept any more, in one line; or WRONG_NODE and WHY, as
        trials report them.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)
    torch.set_num_threads(context.study.cpus_per_trial)
    keep_to_share(math.ceil(context.study.gpus_per_trial or 0))
    try:
        with _deaf_to_cancelling(), waiting_out(Outages(logger.warning)):
            check_this_node(context)
            _make(context, need, again)
    except StorageError as e:
        return {FATAL: str(e)}
    except WrongNode as e:
        return wrong_node(e)
    return {}


@contextlib.contextmanager
def _deaf_to_cancelling() -> Iterator[None]:
    """A sitting that ends cancels what waits for a place. Ray has no such word: what runs gets a
    SIGINT from it, and would end without the checkpoint that it writes when it leaves off."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _make(context: StudyContext, need: EncoderNeed, again: bool) -> None:
    watch = DriverWatch(context)
    context = context.of_worker(f"encoder {need.key}")
    # Closed, because leaving off in the middle writes a checkpoint and gives the lease back.
    with contextlib.closing(Making(context, need, again).run()) as run:
        for _ in run:
            if watch.is_over():
                break


def make_encoders(
    needs: dict[str, EncoderNeed],
    context: StudyContext,
    slots: tuple[int, float],
    ending: Ending,
    left_out: LeftOut,
    console: Console,
    again: bool = False,
) -> None:
    """Makes encoders, several at once, and says how good each is.

    What cannot be made is said; the fits that need it fail, or try it again, by themselves.

    Args:
        needs: by their keys.
        context: the study's.
        slots: how many at once, and the GPUs of a trial; a making has no less than a whole one.
        ending: looked at and, where the storage fails or too many nodes are wrong, set.
        left_out: takes the nodes that can make none; those are made elsewhere.
        console: shows the progress.
        again: whether those that failed in this study are tried again.
    """
    if not needs:
        return
    work = ray.remote(
        num_cpus=context.study.cpus_per_trial,
        # Shares are of what fits need; a making may need more.
        num_gpus=math.ceil(slots[1]),
        max_retries=0,  # Ray would count the machines that were lost.
    )(make_encoder)
    shared, waiting, running = ray.put(context), list(needs), {}
    crashes, losses = dict.fromkeys(needs, 0), dict.fromkeys(needs, 0)
    with _Line(console, context, needs) as line:
        while running or (waiting and not ending.stopping.is_set()):
            while waiting and len(running) < slots[0] and not ending.stopping.is_set():
                key = waiting.pop(0)
                left_out.look()
                placed = work.options(label_selector=selector(left_out.ids))
                running[placed.remote(shared, needs[key], again)] = key
            if ending.stopping.is_set():
                # What waits for a place might do so for hours; what has one leaves off by itself.
                for task in running:
                    ray.cancel(task)
            done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_SECONDS)
            for task in done:
                key = running.pop(task)
                result = _result(task)
                fatal, why = result.get(FATAL), result.get(CRASHED)
                losses[key] += LOST_NODE in result
                if LOST_NODE in result and losses[key] > MOST_LOSSES:
                    why = f"its machine was lost {losses[key]} times"
                crashes[key] += why is not None
                if WRONG_NODE in result:
                    fatal = left_out.add(result[WRONG_NODE], result[WHY])
                if fatal:
                    ending.fatal = ending.fatal or fatal
                    ending.stopping.set()
                elsewhere = WRONG_NODE in result or LOST_NODE in result
                if (elsewhere and not why) or (why and crashes[key] <= context.study.retries):
                    waiting.insert(0, key)
                else:
                    line.done(key, why)
            line.show(list(running.values()))


def _result(task: ray.ObjectRef) -> dict[str, Any]:
    """What `make_encoder` returned, or why it did not."""
    try:
        return ray.get(task)
    except ray.exceptions.TaskCancelledError:
        return {}
    except ray.exceptions.NodeDiedError:
        return {LOST_NODE: True}
    except ray.exceptions.RayError as e:
        # A machine's trouble is raised, a recipe's is kept in the card.
        return {CRASHED: last_line(e)}


class _Line:
    """How far it is: one line that changes on a terminal, a plain one now and then elsewhere."""

    def __init__(
        self, console: Console, context: StudyContext, needs: dict[str, EncoderNeed]
    ) -> None:
        self.console, self.needs = console, needs
        self.store = EncoderStore(Storage(context.study.storage))
        self.over = 0
        self.methods = {need.recipe.method for need in needs.values()}
        self.started = self.printed = time.monotonic()
        self.status = console.status(self._text([]))

    def __enter__(self) -> "_Line":
        self.status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.status.stop()

    def show(self, running: list[str]) -> None:
        """Shows it, from the cards of what is being made."""
        due = time.monotonic() - self.printed > PLAIN_SECONDS
        if self.console.is_terminal or due:
            text = self._text(running)
            self.printed = time.monotonic()
            if self.console.is_terminal:
                self.status.update(text)
            else:
                self.console.print(text, highlight=False, soft_wrap=True)

    def done(self, key: str, why: str | None) -> None:
        """Says in a line what became of one."""
        record = self._record(key)
        if record is not None and record.status == FINISHED:
            self.over += 1
            self.console.print(
                f"{self._name(key)}: {record.agreement()}, {record.seconds / 60:.1f} min",
                highlight=False,
                soft_wrap=True,
            )
        elif why is not None or (record is not None and record.status == FAILED):
            self.over += 1
            why = record.error if record is not None and record.error else why
            text = f"encoder {self._name(key)} could not be made: {why}"
            self.console.print(text, style="red", markup=False, soft_wrap=True)

    def _name(self, key: str) -> str:
        need = self.needs[key]
        return str(need if len(self.methods) > 1 else need.architecture)

    def _text(self, running: list[str]) -> str:
        fractions = 0.0
        for key in running:
            record = self._record(key)
            if record is not None and record.iterations:
                fractions += record.iteration / record.iterations
        seconds = time.monotonic() - self.started
        done = self.over + fractions
        left = (
            f", {seconds / done * (len(self.needs) - done) / 60:.0f} min left"
            if fractions and seconds > PLAIN_SECONDS
            else ""
        )
        percent = f" ({fractions / len(running):.0%})" if running else ""
        return f"encoders {self.over}/{len(self.needs)}  running {len(running)}{percent}{left}"

    def _record(self, key: str) -> EncoderRecord | None:
        records: list[Any] = []
        with contextlib.suppress(StorageError):
            records, _ = self.store.read_all([key])
        return records[0] if records else None
