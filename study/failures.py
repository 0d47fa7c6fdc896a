"""Whose fault it is that something went wrong: a configuration's, a machine's, or the disk's."""

import errno

import torch

from study.storage import StorageError

# What torch says, as a plain RuntimeError, when a CPU's memory does not suffice, and when what its
# libraries ask for beside its allocator is not there on a GPU.
NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "_ALLOC_FAILED")
# Of a disk, not of a configuration: nothing that follows could be kept either.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class WrongNode(RuntimeError):
    """This machine cannot do a study's fits, whatever their configuration; the message says why."""


def in_one_line(error: Exception) -> str:
    """An error's kind and message, as records keep it."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def last_line(error: BaseException) -> str:
    """What an error says at its end, where a whole traceback has its reason; its kind where it says
    nothing."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def lacks_memory(error: Exception) -> bool:
    """Whether the machine's or the GPU's memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(said in str(error) for said in NO_MEMORY)


def raise_if_disk(error: Exception, where: str) -> None:
    """Raises StorageError where it is a disk that is full or cannot be written.

    Args:
        error: that was caught.
        where: the storage, where the error names no file.
    """
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        file = error.filename or where
        raise StorageError(f"{file} cannot be written: {error.strerror}") from error
