"""Ray, started and ended around a study's work."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from study.config import StudyError
from study.failures import last_line
from study.signals import Interrupts

# Nothing passes through Ray's shared memory but small dictionaries; bytes.
OBJECT_STORE = 200_000_000
# How long Ray may still take to start when somebody asked for an end, so that it is ended in order.
RAY_SECONDS = 10.0
# Between two times that our handlers of signals are set while Ray sets its own.
INSTALL_SECONDS = 0.002


@contextmanager
def running_ray(interrupts: Interrupts) -> Iterator[bool]:
    """Ray, unless it runs already, for as long as the context lasts.

    While it starts it sets handlers for SIGTERM, in Python and in C++, that end the process with
    a stack trace, and when it ends it leaves none. So it is started and ended in a thread of its
    own, where it sets the ones of C++ only, and this thread sets ours again and again meanwhile.
    The other one lives as long as Ray, whose processes the kernel ends with it.

    Yields:
        Whether it runs; not if it did not start soon after somebody asked for an end.

    Raises:
        StudyError: as `start_ray`.
    """
    if ray.is_initialized():
        yield True
        return
    ready, over = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def live() -> None:
        try:
            start_ray()
        except BaseException as e:
            failed.append(e)
        ready.set()
        over.wait()
        ray.shutdown()

    thread = threading.Thread(target=live, name="ray", daemon=True)
    thread.start()
    stopping, asked = interrupts.stopping, None
    while not ready.wait(INSTALL_SECONDS):
        interrupts.install()
        if stopping.is_set():
            asked = asked or time.monotonic()
            if time.monotonic() - asked > RAY_SECONDS:
                yield False
                return
    interrupts.install()
    try:
        # A terminal's Ctrl-C reaches Ray's processes while they start, too.
        if failed and not stopping.is_set():
            raise failed[0]
        yield not failed
    finally:
        over.set()
        while thread.is_alive():
            thread.join(INSTALL_SECONDS)
            interrupts.install()


def start_ray() -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts Ray on this machine alone.

    Raises:
        StudyError: if the cluster does not answer, or Ray does not start.
    """
    address = os.environ.get("RAY_ADDRESS")
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if not address:
        # "local" keeps away from other people's Ray on this machine.
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    try:
        ray.init(**options)
    except Exception as e:  # Ray raises whatever it has, a plain Exception among it.
        where = f"Ray at RAY_ADDRESS={address} does not answer" if address else "Ray does not start"
        raise StudyError(f"{where}: {last_line(e.__cause__ or e)[:300]}") from e
