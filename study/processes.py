"""Processes, told from one another over machines, starts and numbers that are given again."""

import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil

# What Linux calls the process numbers of a machine outside all containers (linux/nsfs.h).
_OF_NO_CONTAINER = "pid:[4026531836]"
MACHINE_ID = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


def this_process() -> dict[str, Any]:
    """What tells this process from all others, of other machines too."""
    process = psutil.Process()
    return {
        "host": platform.node(),
        "place": own_place(),
        "machine": own_machine(),
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


def ended_with_its_start(document: dict[str, Any]) -> bool:
    """Whether what `this_process` described ran on this machine before it was started anew.

    A machine is known by its id and its name, so this is wrong of two that were made from one image
    and kept both. Where silence tells that a process is no more, as of a lease's holder, wait for
    that instead. It is never said of a container: its id and its name are what its image and its
    caller say, and who is in another one of the same machine cannot be seen.
    """
    machine = own_machine()
    return (
        machine is not None
        and document.get("machine") == machine
        and document.get("place") != own_place()
    )


def own_machine() -> str | None:
    """What a machine keeps over its starts, sixteen hexadecimal digits; None in a container, and
    where nothing tells it."""
    try:
        Path("/proc/sys/kernel/random/boot_id").read_text()
        if os.readlink("/proc/self/ns/pid") != _OF_NO_CONTAINER:
            return None
    except OSError:
        return None
    for path in MACHINE_ID:
        try:
            number = path.read_text().strip()
        except OSError:
            continue
        # An image that is still to be started has an empty one, or a word.
        if re.fullmatch("[0-9a-f]{32}", number):
            # The number itself is to stay on the machine; see machine-id(5).
            return hashlib.sha256(f"ffcad {number} {platform.node()}".encode()).hexdigest()[:16]
    return None


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
