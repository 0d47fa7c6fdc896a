"""Where studies keep their files: a local folder, NFS, S3 or GCS by URI, through fsspec.

Names are relative and have slashes. Whatever is written is there whole or not at all: a local file
by a rename, an object by the store's own promise.
"""

import contextlib
import copy
import errno
import functools
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from ffcad.durable import force_names
from study.outages import StorageAway, StorageError, outlast, passes

# Scheme of a URI -> the extra of this project that brings its file system.
OBJECT_STORES = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
# How often an object is fetched that is replaced while it is.
DOWNLOADS = 5
# What s3fs makes of 412 and 409.
REFUSALS = (errno.EINVAL, errno.EBUSY)

Method = TypeVar("Method", bound=Callable)


def _operation(what: str, at: int = 0) -> Callable[[Method], Method]:
    """A method that may be done twice: its errors are said in one line, and where the process is
    to, it waits while the storage is away.

    Args:
        what: is done to a file or folder.
        at: which of the arguments is its name.
    """

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def operation(self: "Storage", *args: Any, **options: Any) -> Any:
            def once() -> Any:
                with self._said(what, args[at]):
                    return method(self, *args, **options)

            return outlast(self.where, once) if self._waits else once()

        return operation

    return decorate


class Storage:
    """Files below one folder or URI.

    A storage that is away for a moment is waited for where the process is to (`study.outages`).

    Args:
        where: a folder, or s3://bucket/folder, or gs://bucket/folder.

    Attributes:
        where: the same, as an absolute path or without a slash at its end.
        local: the folder, if it is one of this machine's file system (NFS included).

    Raises:
        StorageError: if the scheme is unknown or its package is not installed.
    """

    _waits = True

    def __init__(self, where: str | Path) -> None:
        scheme = urlsplit(str(where)).scheme if "://" in str(where) else "file"
        if scheme == "file":
            path = Path(str(where).removeprefix("file://")).expanduser().resolve()
            self.where, self.local = str(path), path
            return
        if scheme not in OBJECT_STORES:
            raise StorageError(
                f"storage {where}: unknown scheme {scheme!r}; give a folder, s3://bucket/folder or "
                "gs://bucket/folder"
            )
        self.where, self.local = str(where).rstrip("/"), None
        # Else large objects are read in parts at once, which may be parts of two objects where one
        # is replaced meanwhile.
        self._whole = {"max_concurrency" if scheme == "s3" else "concurrency": 1}
        try:
            # Others write here too: nothing may come from a listing of long ago.
            self._fs, self._root = fsspec.core.url_to_fs(self.where, use_listings_cache=False)
        except ImportError as e:
            raise StorageError(
                f"storage {where} needs another package: pip install "
                f"'ffcad-study[{OBJECT_STORES[scheme]}]'"
            ) from e

    @property
    def at_once(self) -> "Storage":
        """The same, for who would rather have an error than wait while it is away."""
        same = copy.copy(self)
        same._waits = False
        return same

    def uri(self, name: str) -> str:
        """How a file is called from outside."""
        return f"{self.where}/{name}"

    @_operation("read")
    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: if it is not there.
            StorageError: if it cannot be read.
        """
        if self.local:
            return (self.local / name).read_bytes()
        return self._fs.cat_file(self._path(name), **self._whole)

    @_operation("written")
    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Replaces a file; a reader sees the old one or the new one, whole.

        Args:
            name: of the file.
            data: its new content.
            durable: whether it waits until a power cut cannot take it either. Without, a kill of
                any process still cannot, and NFS has sent it to the server.
        """
        if self.local:
            with self._temporary(name) as temporary:
                (_write_durably if durable else Path.write_bytes)(temporary, data)
                os.replace(temporary, self.local / name)
            if durable:
                force_names((self.local / name).parent)
        else:
            self._fs.pipe_file(self._path(name), data)

    @_operation("written")
    def create(self, name: str, data: bytes) -> bool:
        """Writes a file that is not there yet; of several that try at once, one succeeds.

        A power cut may take it: such files are for processes, which it ends as well.

        Args:
            name: of the file.
            data: unlike what anybody else would write there. A request whose answer was lost is
                sent again, by an object store's client or by NFS, and then finds what it wrote
                itself; only the content tells that from what another one wrote.

        Returns:
            False if another one's was there.
        """
        try:
            if self.local:
                with self._temporary(name) as temporary:
                    temporary.write_bytes(data)
                    os.link(temporary, self.local / name)  # Fails where there is one.
            else:
                self._fs.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return self._holds(name, data)
        except OSError as e:
            # Some object stores say "precondition failed" (412) without saying which one, and
            # "conflict" (409) where two try at once.
            if self.local or e.errno not in REFUSALS or self.version(name) is None:
                raise
            return self._holds(name, data)
        return True

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.read(name) == data
        except FileNotFoundError:
            return False

    @_operation("listed")
    def files(self, folder: str) -> dict[str, Hashable]:
        """The names of the files directly in a folder, each with its `version`."""
        with contextlib.suppress(FileNotFoundError):
            if self.local:
                found = {}
                for entry in os.scandir(self.local / folder):
                    if entry.is_file() and not _hidden(entry.name):
                        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                            found[f"{folder}/{entry.name}"] = _version(entry.stat())
                return found
            found = self._fs.ls(self._path(folder), detail=True)
            return {
                f"{folder}/{Path(entry['name']).name}": _object_version(entry)
                for entry in found
                if entry["type"] == "file" and not _hidden(Path(entry["name"]).name)
            }
        return {}

    @_operation("listed")
    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in a folder, without it."""
        with contextlib.suppress(FileNotFoundError):
            if self.local:
                return sorted(e.name for e in os.scandir(self.local / folder) if e.is_dir())
            found = self._fs.ls(self._path(folder), detail=True)
            return sorted(Path(e["name"]).name for e in found if e["type"] == "directory")
        return []

    @_operation("read")
    def version(self, name: str) -> Hashable | None:
        """Something that changes when the file is replaced; None if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            if self.local:
                return _version((self.local / name).stat())
            return _object_version(self._fs.info(self._path(name)))
        return None

    def age(self, name: str) -> float | None:
        """Seconds since a file was last replaced; None where that cannot be told.

        By the storage's own clock, from which this machine's may differ: another file is written
        now, to compare with.
        """
        probe = f".probe-{uuid.uuid4().hex[:8]}"
        try:
            self.write(probe, b"")
            try:
                return max(0.0, self._replaced(probe) - self._replaced(name))
            finally:
                self.delete(probe)
        except (FileNotFoundError, StorageError):
            return None

    @_operation("read")
    def _replaced(self, name: str) -> float:
        if self.local:
            return (self.local / name).stat().st_mtime
        return self._fs.modified(self._path(name)).timestamp()

    @_operation("removed")
    def delete(self, name: str) -> None:
        """Removes a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            if self.local:
                (self.local / name).unlink()
            else:
                self._fs.rm_file(self._path(name))

    @_operation("written", at=1)
    def upload(self, path: Path, name: str) -> None:
        """Replaces a file by a local one, which must be there."""
        if self.local:
            with self._temporary(name) as temporary:
                shutil.copyfile(path, temporary)
                os.replace(temporary, self.local / name)
        else:
            self._fs.put_file(str(path), self._path(name))

    @_operation("copied")
    def copy(self, name: str, other: str) -> None:
        """Replaces a file by another of the storage.

        Raises:
            FileNotFoundError: if that is not there.
        """
        if self.local:
            with self._temporary(other) as temporary:
                # Files are replaced, never written into, so one content may have two names.
                os.link(self.local / name, temporary)
                os.replace(temporary, self.local / other)
        else:
            self._fs.cp_file(self._path(name), self._path(other))

    @contextlib.contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """A file as a local path with the same last part, for as long as the context lasts.

        Raises:
            FileNotFoundError: if it is not there.
        """
        if self.local:
            if not (self.local / name).is_file():
                raise FileNotFoundError(self.uri(name))
            yield self.local / name
            return
        with tempfile.TemporaryDirectory(prefix="ffcad-") as folder:
            path = Path(folder) / Path(name).name
            self.download(name, path)
            yield path

    @_operation("read")
    def download(self, name: str, path: Path) -> None:
        """Copies an object to a local path.

        Raises:
            FileNotFoundError: if it is not there.
        """
        for _ in range(DOWNLOADS):
            before = self.version(name)
            self._fs.get_file(self._path(name), str(path), **self._whole)
            # What a broken connection left is fetched later, of another object perhaps.
            if before is not None and self.version(name) == before:
                return
        raise OSError("it is replaced again and again meanwhile")

    def check(self) -> None:
        """Tries what studies depend on, before anything does.

        Raises:
            StorageError: if files cannot be written, or the storage lets two create one file.
        """
        name = f".probe-{uuid.uuid4().hex[:8]}"
        try:
            if not self.create(name, b"1") or self.create(name, b"2"):
                raise StorageError(
                    f"--storage {self.where} lets two writers create one file; on an object store, "
                    "conditional writes (If-None-Match) are needed"
                )
            self.write(name, b"3")
        except StorageError as e:
            # Not the name of the file that was tried, which means nothing to anybody.
            _, cannot, reason = str(e).partition(" cannot be ")
            raise type(e)(f"--storage {self.where}{cannot}{reason}" if cannot else e) from e
        finally:
            with contextlib.suppress(StorageError):
                self.delete(name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        """A name beside the file, on the same file system; nothing is left of it."""
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not only the process: two threads, or two machines with the same process number, write.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _said(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except StorageError:  # of an operation within
            raise
        except Exception as e:
            if isinstance(e, OSError):
                if isinstance(e, FileNotFoundError) and what != "written":
                    raise
                reason = e.strerror or e
            elif self.local:
                raise
            else:  # whatever an object store's package raises
                reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
            kind = StorageAway if passes(e) else StorageError
            raise kind(f"{self.uri(name)} cannot be {what}: {reason}") from e


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _version(stat: os.stat_result) -> Hashable:
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _object_version(entry: dict) -> Hashable:
    changed = entry.get("ETag") or entry.get("etag") or entry.get("LastModified")
    return str(changed), entry["size"]


def _hidden(name: str) -> bool:
    return name.startswith(".")
