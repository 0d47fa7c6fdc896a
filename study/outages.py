"""A storage that is away for a moment: what passes by itself, and how long it is waited for.

Who runs a study waits, the driver and its workers (`waiting_out`): it is not to end because a file
server restarts. Commands that only look, and a study's own first look, say at once that the storage
does not answer: there it is mostly the address that is wrong.
"""

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

# How long a storage is waited for, from the first thing that it did not do.
LIMIT_SECONDS = 120.0
# The first wait; each one is as long as the outage was before it, up to the last.
FIRST_SECONDS, LONGEST_SECONDS = 0.5, 10.0

# Of a network file system whose server is away, and what s3fs makes of a server's own troubles
# (503 is EBUSY, 500 EREMOTEIO). EIO is all that NFS and a bridge to an object store say; that of a
# disk that is broken fails two minutes later.
PASSING = (
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EPIPE,
    getattr(errno, "EREMOTEIO", errno.EIO),  # of Linux alone
    errno.ESTALE,
    errno.ETIMEDOUT,
)
# Names of classes, which the packages of object stores need not be imported for: botocore's,
# aiohttp's and google.auth's, whose own bases are no OSError.
PASSING_KINDS = {
    "ConnectionError",
    "TimeoutError",
    "HTTPClientError",
    "ClientConnectionError",
    "TransportError",
}
# Of HTTP, besides 500 and above: a request that took too long, one that another one of the same
# name is in the way of (S3), and too many of them.
PASSING_STATUSES = (408, 409, 429)

Result = TypeVar("Result")


class StorageError(RuntimeError):
    """The storage cannot be reached, read or written; the message is the user's one line."""


class StorageAway(StorageError):
    """It does not answer now, which may pass by itself."""


def passes(error: BaseException) -> bool:
    """Whether an error may pass by itself, as a server or a network that is away does.

    Not a permission or credentials that are refused, a bucket that is not there, or a full disk:
    those are for the user to mend.

    Args:
        error: of the system, or whatever an object store's package raises.
    """
    status = _http_status(error) or _http_status(error.__cause__)
    if status is not None:
        return status >= 500 or status in PASSING_STATUSES
    if isinstance(error, OSError) and error.errno in PASSING:
        return True
    return any(kind.__name__ in PASSING_KINDS for kind in type(error).__mro__)


def _http_status(error: BaseException | None) -> int | None:
    """What a server answered: botocore has it in the answer, gcsfs as the error's code."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


class Outages:
    """Waits while a storage is away, for all threads of a process together: what one of them has
    waited for in vain, the others do not wait for again.

    Args:
        say: shows a line when an outage begins and when it has passed.
        clock, sleep: of seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._say, self._clock, self._sleep = say, clock, sleep
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}
        self._given_up: set[str] = set()

    def outlast(self, where: str, operation: Callable[[], Result]) -> Result:
        """Does something on a storage, again and again while that is away.

        Args:
            where: the storage.
            operation: may be done twice.

        Raises:
            StorageAway: if it is away for longer than `LIMIT_SECONDS`.
        """
        failed: float | None = None
        while True:
            try:
                result = operation()
            except StorageAway as e:
                failed = self._clock() if failed is None else failed
                if not self._wait(where, failed, e):
                    raise
                try:
                    _ask_first()
                except BaseException:
                    self._answered(where, failed)
                    raise
            except BaseException:  # It answers, if only that it has no such file, or refuses.
                self._answered(where, failed)
                raise
            else:
                self._answered(where, failed)
                return result

    def _wait(self, where: str, failed: float, error: StorageAway) -> bool:
        """Waits before another try; False where it was waited for long enough.

        Args:
            where: the storage.
            failed: when this operation did for the first time.
            error: its last one.
        """
        now = self._clock()
        with self._lock:
            new = where not in self._began
            began = self._began.setdefault(where, failed)
            # Its own time counts too: others may succeed, where it is only writing that fails.
            left = LIMIT_SECONDS - (now - min(began, failed))
            if left <= 0:
                self._given_up.add(where)
                return False
        if new:
            minutes = LIMIT_SECONDS / 60
            self._say(f"Waiting for the storage, {minutes:.0f} minutes at most: {error}")
        self._sleep(min(left, LONGEST_SECONDS, max(FIRST_SECONDS, now - began)))
        return True

    def _answered(self, where: str, failed: float | None) -> None:
        """Notes that the storage did something, for one that had to wait, or after all gave up."""
        with self._lock:
            if where not in self._began or (failed is None and where not in self._given_up):
                return
            seconds = self._clock() - self._began.pop(where)
            self._given_up.discard(where)
        self._say(f"The storage answers again, after {seconds:.0f} s.")


_waiting: Outages | None = None
_question: ContextVar[Callable[[], None] | None] = ContextVar("question", default=None)


@contextlib.contextmanager
def asking_first(ask: Callable[[], None]) -> Iterator[None]:
    """Has `ask` called before an operation of this thread is tried again; what it raises ends the
    waiting. For who may write only while nobody else has taken its place."""
    token = _question.set(ask)
    try:
        yield
    finally:
        _question.reset(token)


def _ask_first() -> None:
    ask = _question.get()
    if ask is None:
        return
    token = _question.set(None)  # To ask is an operation too.
    try:
        ask()
    finally:
        _question.reset(token)


@contextlib.contextmanager
def waiting_out(outages: Outages | None) -> Iterator[None]:
    """Has all threads of this process wait while a storage is away; with None, has none wait."""
    global _waiting
    former, _waiting = _waiting, outages
    try:
        yield
    finally:
        _waiting = former


def outlast(where: str, operation: Callable[[], Result]) -> Result:
    """Does something on a storage; waits while that is away, where this process is to.

    Args, Raises: as `Outages.outlast`; at once where nobody is to wait.
    """
    return operation() if _waiting is None else _waiting.outlast(where, operation)
