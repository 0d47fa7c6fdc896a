"""Processes, told from one another over machines, starts and numbers that are given again."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """What tells this process from all others, of other machines too."""
    process = psutil.Process()
    return {
        "host": platform.node(),
        "place": own_place(),
        "pid": process.pid,
        "since_boot": _since_boot(process),
    }


def is_gone(document: dict[str, Any]) -> bool:
    """Whether what `this_process` described was a process of this machine and is no more."""
    if document.get("place") != own_place():
        return False
    try:
        process = psutil.Process(document["pid"])
        # A number may be given to another process later.
        began = document.get("since_boot")
        same = began is None or abs(_since_boot(process) - began) < 1.0
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def own_place() -> str:
    """Where process numbers mean the same: a machine since its start, and a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _since_boot(process: psutil.Process) -> float:
    """When a process began, in seconds since the machine did: a clock that is set moves the epoch's
    seconds of both, and not their difference."""
    return process.create_time() - psutil.boot_time()
