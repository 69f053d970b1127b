"""An OCI image layout: a folder with `oci-layout`, `index.json` and `blobs/sha256/…`.

Written so that a cut at any point leaves a folder in which nothing is listed that is not whole:
each blob is synced before it gets its name, `index.json` comes last.
"""

import contextlib
import errno
import fcntl
import io
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from agent.errors import AgentError, ServerError, TemplateError
from agent.model.template import MANIFEST_MAX_BYTES, MANIFEST_TYPE, Descriptor, Digest
from agent.model.wire import decode, encode
from agent.store.blob_file import BlobFile
from agent.store.body import Limits
from agent.store.retry import Retry
from agent.store.source import check_manifest, check_reference
from agent.units import MiB

REF_NAME: Final = "org.opencontainers.image.ref.name"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
INDEX_MAX_BYTES: Final = 4 * MiB
_MARK: Final = b'{"imageLayoutVersion":"1.0.0"}'
_ONCE: Final = Retry(attempts=1)
_LIMITS: Final = Limits()


class _Index(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    manifests: tuple[Descriptor, ...]


class _Mark(msgspec.Struct, frozen=True, rename="camel"):
    image_layout_version: str


def read_layout_index(data: bytes, name: str) -> tuple[Descriptor, ...]:
    """Return what an `index.json` lists. Raises BadDocument or TemplateError."""
    index = decode(data, _Index, name, INDEX_MAX_BYTES)
    if index.schema_version != 2:
        raise TemplateError(f"{name}: not the index of an OCI layout")
    return index.manifests


def find_tag(manifests: Sequence[Descriptor], tag: str, name: str) -> Descriptor:
    """Return the manifest called `tag`. Raises ServerError, which lists what there is."""
    if found := lookup_tag(manifests, tag):
        return found
    known = sorted({one.annotations.get(REF_NAME, "") for one in manifests} - {""})
    shown = ", ".join(known[:10]) or "nothing with a name"
    raise ServerError(f"{name} has no {tag!a}", hint=f"it has: {shown}"[:500])


def lookup_tag(manifests: Iterable[Descriptor], tag: str) -> Descriptor | None:
    """Return the manifest called `tag`, None if there is none."""
    return next((one for one in manifests if one.annotations.get(REF_NAME) == tag), None)


@dataclass(frozen=True, slots=True)
class LayoutFolder:
    """One folder with an OCI layout; read as a source of blobs, or written to."""

    path: Path
    retry: Retry = _ONCE
    limits: Limits = _LIMITS

    @property
    def url(self) -> str:
        return str(self.path)

    def close(self) -> None:
        """Nothing is held open."""

    # reading

    def manifests(self) -> tuple[Descriptor, ...]:
        """Return what the layout lists. Raises ServerError if there is no layout."""
        mark = self._small("oci-layout", 4096)
        if not decode(mark, _Mark, f"{self.path}/oci-layout").image_layout_version.startswith("1."):
            raise TemplateError(f"{self.path}: a layout of an unknown version")
        name = f"{self.path}/index.json"
        return read_layout_index(self._small("index.json", INDEX_MAX_BYTES), name)

    def manifest(self, reference: str) -> tuple[bytes, Digest]:
        check_reference(reference)
        digest = reference
        listed = self.manifests()
        if not reference.startswith("sha256:"):
            digest = find_tag(listed, reference, str(self.path)).digest
        data = self._small(_blob_path(digest), MANIFEST_MAX_BYTES)
        return data, check_manifest(data, digest, f"{self.path}/{_blob_path(digest)}")

    def find_manifest(self, reference: str) -> tuple[bytes, Digest] | None:
        """Return the manifest that a tag names, and its digest; None if there is none."""
        check_reference(reference)
        if not (self.path / "index.json").exists():
            return None
        named = lookup_tag(self.manifests(), reference)
        return self.manifest(named.digest) if named else None

    def blob(self, descriptor: Descriptor, max_bytes: int) -> bytes:
        name = f"{self.path}/{_blob_path(descriptor.digest)}"
        if descriptor.size > max_bytes:
            raise TemplateError(f"{name} has {descriptor.size} bytes, at most {max_bytes} may be")
        data = self._small(_blob_path(descriptor.digest), descriptor.size)
        found = f"sha256:{sha256(data).hexdigest()}"
        if len(data) != descriptor.size or found != descriptor.digest:
            raise TemplateError(f"{name} is damaged: {len(data)} bytes, {found}")
        return data

    def open_range(self, digest: Digest, offset: int, size: int, blob_bytes: int) -> "FileBody":
        del size
        file = self._open(_blob_path(digest))
        found = os.fstat(file.fileno()).st_size
        if found != blob_bytes:
            file.close()
            raise TemplateError(f"{file.name} has {found} bytes, not {blob_bytes}")
        file.seek(offset)
        return FileBody(file)

    def has_blob(self, digest: Digest) -> bool:
        return (self.path / _blob_path(digest)).is_file()

    def blob_bytes(self, digest: Digest) -> int | None:
        """Return the size of a blob, None if it is not there."""
        try:
            return (self.path / _blob_path(digest)).stat().st_size
        except FileNotFoundError:
            return None

    def is_whole(self, descriptor: Descriptor) -> bool:
        """Return whether the blob is there, reading all of it."""
        try:
            with (self.path / _blob_path(descriptor.digest)).open("rb") as file:
                if os.fstat(file.fileno()).st_size != descriptor.size:
                    return False
                found = f"sha256:{file_digest(file, 'sha256').hexdigest()}"
        except FileNotFoundError:
            return False
        return found == descriptor.digest

    def blame(self, body: object, error: AgentError) -> bool:
        """There is no other source."""
        del body, error
        return False

    def _small(self, name: str, max_bytes: int) -> bytes:
        with self._open(name) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise TemplateError(f"{file.name} has more than the {max_bytes} bytes that may be")
        return data

    def _open(self, name: str) -> io.BufferedReader:
        path = self.path / name
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            what = "it is no OCI layout" if not (self.path / "oci-layout").exists() else "it lacks"
            raise ServerError(f"{self.path}: {what}: {name} is missing") from error
        except OSError as error:
            raise ServerError(f"cannot read {path}: {error.strerror}") from error

    # writing

    def prepare(self) -> None:
        """Make the folder a layout, if it is none. Raises ServerError if it holds other things."""
        try:
            blobs = self.path / "blobs" / "sha256"
            mark = self.path / "oci-layout"
            if self.path.is_dir() and any(self.path.iterdir()) and not mark.exists():
                raise ServerError(
                    f"{self.path} is not empty and no OCI layout", hint="give an empty folder"
                )
            blobs.mkdir(parents=True, exist_ok=True)
            if not mark.exists():
                self._replace(mark, _MARK)
        except OSError as error:
            raise ServerError(f"cannot write {self.path}: {error.strerror}") from error

    def sweep(self) -> None:
        """Remove what an earlier attempt left half-written; for whoever has it `locked`."""
        for left in (self.path / "blobs" / "sha256").glob(".*.part"):
            left.unlink(missing_ok=True)

    def writer(self, digest: Digest | None = None) -> "LayoutBlob":
        """Return the writer of a blob; of one that is just being made, without its digest."""
        return LayoutBlob(self.path / "blobs" / "sha256", digest)

    def put_manifest(self, data: bytes, tag: str, artifact_type: str = "") -> Digest:
        """Write a manifest and list it as `tag`, in place of what was called so."""
        digest = f"sha256:{sha256(data).hexdigest()}"
        writer = self.writer(digest)
        writer.append(data)
        writer.finish(digest)
        index = self.path / "index.json"
        listed: list[dict[str, Any]] = []
        if index.exists():
            self.manifests()  # checks it
            listed = msgspec.json.decode(index.read_bytes())["manifests"]  # with others' fields
        new = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(data)}
        if artifact_type:
            new["artifactType"] = artifact_type
        new["annotations"] = {REF_NAME: tag}
        kept = [one for one in listed if (one.get("annotations") or {}).get(REF_NAME) != tag]
        whole = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*kept, new]}
        self._replace(index, encode(whole))
        return digest

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that writes here. Raises ServerError if another process does."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise ServerError(f"another process writes to {self.path}") from error
        finally:
            os.close(descriptor)

    def _replace(self, path: Path, data: bytes) -> None:
        half = path.with_name(f".{path.name}.part")
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
        _sync_folder(path.parent)


class FileBody:
    """A range of a file, with the manners of `Body`."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def __enter__(self) -> "FileBody":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def wake(self) -> None:
        """A file does not keep anybody waiting."""

    def readinto(self, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            got = self._file.readinto(buffer[done:])
            if not got:
                raise TemplateError(f"{self._file.name} ends too soon")
            done += got

    def fill(self, buffer: memoryview) -> None:
        self.readinto(buffer)

    def check_pace(self, now: float) -> None:
        """A file does not trickle."""


class LayoutBlob:
    """One blob on its way into a layout: synced, checked if it comes from elsewhere, then named."""

    def __init__(self, folder: Path, digest: Digest | None) -> None:
        name = digest.removeprefix("sha256:") if digest else secrets.token_hex(16)
        self._folder = folder
        self._part = folder / f".{name}.{os.getpid()}.part"
        self._sha256 = sha256() if digest else None
        try:
            self._file = BlobFile(self._part)
        except OSError as error:
            raise self._failed(error) from error

    def append(self, *parts: bytes) -> None:
        for data in parts:
            try:
                self._file.write(data)
            except OSError as error:
                raise self._failed(error) from error
            if self._sha256:
                self._sha256.update(data)

    def finish(self, digest: Digest) -> None:
        found = f"sha256:{self._sha256.hexdigest()}" if self._sha256 else digest
        if found != digest:
            self.cancel()
            raise TemplateError(f"the blob {digest} came damaged: it has digest {found}")
        try:
            self._file.sync()
            self._file.close()
            self._part.chmod(0o644)
            self._part.replace(self._folder / digest.removeprefix("sha256:"))
            _sync_folder(self._folder)
        except OSError as error:
            raise self._failed(error) from error

    def cancel(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()

    def _failed(self, error: OSError) -> ServerError:
        hint = "make room there, or give another folder" if error.errno == errno.ENOSPC else None
        return ServerError(f"cannot write to {self._folder}: {error.strerror}", hint=hint)


def _blob_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
