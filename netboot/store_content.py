"""Blobs, uploads, manifests and tags under one data directory: what `Store` is made of."""

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agent.units import GiB, MiB
from netboot.store_catalog import Catalog, ManifestRow, UploadRow
from netboot.store_errors import (
    BlobInUse,
    BlobUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    StoreBusy,
    StoreError,
    TooManyUploads,
    UploadUnknown,
)
from netboot.store_manifest import parse_manifest
from netboot.store_names import is_digest, parse_digest, parse_name, parse_tag
from netboot.store_uploads import Room, Upload, Writer, free_bytes, sync_directory

DAY_S: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What keeps one client from taking all of the store."""

    blob_bytes: int = 8 * GiB
    reserve_bytes: int = 256 * MiB
    uploads: int = 512


@dataclass(frozen=True, slots=True)
class Blob:
    """Finished bytes on the disk. The file never changes."""

    digest: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredManifest:
    digest: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class PushedManifest:
    digest: str
    subject: str | None


class Content:
    """One data directory and what came into it."""

    def __init__(
        self,
        root: Path,
        *,
        limits: Limits = Limits(),
        free: Callable[[Path], int] = free_bytes,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the store under `root`, or make it. Raises StoreBusy if another process has it."""
        self.root = root
        self.limits = limits
        self._now = now
        self._blobs = root / "blobs" / "sha256"
        self._incoming = root / "uploads"
        for directory in (self._blobs, self._incoming):
            directory.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(root / "store.lock")
        self.catalog = Catalog(root / "store.sqlite")
        self.room = Room(root, limits.reserve_bytes, free)
        self._uploads: dict[str, Upload] = {}
        self._recover()

    def close(self) -> None:
        self.catalog.close()
        self._lock_file.close()

    def _recover(self) -> None:
        """Forget uploads without a file, finish what was nearly done, remove what nobody names."""
        for row in self.catalog.uploads():
            try:
                self._uploads[row.id] = Upload(row.id, row.repository, self._incoming / row.id)
            except UploadUnknown:
                self.catalog.remove_upload(row.id)
        for upload in self.uploads():
            if upload.path.stat().st_nlink > 1:  # was verified and had its name: finish that
                self.finish_upload(upload, digest_of(upload.path))
        for path in self._incoming.iterdir():
            if path.name not in self._uploads:
                path.unlink()

    # uploads

    def begin_upload(self, repository: str) -> Upload:
        """Return a new, empty upload. Raises TooManyUploads."""
        upload = secrets.token_hex(16)
        path = self._incoming / upload
        with self.catalog.lock:
            if len(self._uploads) >= self.limits.uploads:
                raise TooManyUploads(f"{len(self._uploads)} unfinished uploads, no more are kept")
            self.room.promise(upload, 0)
            self.room.release(upload)
            path.open("xb").close()
            sync_directory(self._incoming)
            self.catalog.add_upload(UploadRow(upload, repository, self._now()))
            self._uploads[upload] = Upload(upload, repository, path)
            return self._uploads[upload]

    def upload(self, repository: str, upload: str) -> Upload:
        """Return an unfinished upload of this repository. Raises UploadUnknown."""
        with self.catalog.lock:
            found = self._uploads.get(upload)
        if found is None or found.repository != repository or found.is_over:
            raise UploadUnknown(f"no upload {upload[:64]!r} in {repository}")
        return found

    def uploads(self) -> tuple[Upload, ...]:
        """Return all that is on its way in."""
        with self.catalog.lock:
            return tuple(self._uploads.values())

    def write_upload(self, upload: Upload, at: int | None, size_bytes: int | None) -> Writer:
        """Return the writer that goes on with `upload`; see `Upload.take`."""
        return upload.take(at, size_bytes, self.room, self.limits.blob_bytes)

    def finish_upload(self, upload: Upload, digest: str) -> Blob:
        """Make the upload a blob of its repository.

        Raises DigestInvalid when the bytes have another digest; the upload is then gone.
        """
        parse_digest(digest)
        try:
            size_bytes = upload.close(digest)
        except (DigestInvalid, StoreError):
            self.cancel_upload(upload)
            raise
        with self.catalog.lock:
            self._publish(upload.path, digest)
            self.catalog.add_blob(upload.repository, digest, size_bytes, self._now(), upload.id)
            self._uploads.pop(upload.id, None)
            upload.path.unlink(missing_ok=True)
        return Blob(digest, self._path(digest), size_bytes)

    def cancel_upload(self, upload: Upload) -> None:
        """Remove the upload and all that arrived of it."""
        upload.abandon()
        with self.catalog.lock:
            upload.path.unlink(missing_ok=True)
            self.catalog.remove_upload(upload.id)
            self._uploads.pop(upload.id, None)

    def touch_upload(self, upload: Upload) -> None:
        """Note that somebody still counts on the upload, so that it is not swept."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(upload.path, (self._now(), self._now()))

    def stale_uploads(self, older_than_s: float = DAY_S) -> tuple[Upload, ...]:
        """Return the uploads that nobody has written to, or asked for, for so long."""
        stale: list[Upload] = []
        for upload in self.uploads():
            try:
                age_s = self._now() - upload.path.stat().st_mtime
            except FileNotFoundError:
                age_s = older_than_s
            if age_s >= older_than_s and upload.writers == 0:
                stale.append(upload)
        return tuple(stale)

    def sweep_uploads(self, older_than_s: float = DAY_S) -> int:
        """Cancel the stale uploads; return how many."""
        stale = self.stale_uploads(older_than_s)
        for upload in stale:
            self.cancel_upload(upload)
        return len(stale)

    def _publish(self, path: Path, digest: str) -> None:
        """Give the finished, synced file at `path` its name; the caller holds the lock."""
        target = self._path(digest)
        if not target.parent.exists():
            target.parent.mkdir()
            sync_directory(target.parent.parent)
        path.chmod(0o444)
        os.utime(path)
        second = path.with_name(f"{path.name}.done")
        try:
            os.link(path, second)  # a crash before the catalog knows leaves the upload as it was
        except OSError:
            second = path
        second.replace(target)
        sync_directory(target.parent)

    def _path(self, digest: str) -> Path:
        name = parse_digest(digest).removeprefix("sha256:")
        return self._blobs / name[:2] / name

    # blobs

    def blob(self, repository: str, digest: str, *, touch: bool = False) -> Blob:
        """Return a blob of the repository. Raises BlobUnknown.

        `touch` says that the caller will rely on it, so `gc` spares it for another while.
        """
        size_bytes = self.catalog.blob_size(repository, parse_digest(digest))
        if size_bytes is None:
            raise BlobUnknown(f"{repository} has no blob {digest}")
        if touch:
            self.catalog.touch_blob(repository, digest, self._now())
        return Blob(digest, self._path(digest), size_bytes)

    def mount_blob(self, repository: str, digest: str, source: str) -> Blob:
        """Give `repository` a blob that `source` has. Raises BlobUnknown."""
        with self.catalog.lock:
            blob = self.blob(source, digest)
            self.catalog.add_blob(repository, digest, blob.size_bytes, self._now())
        return blob

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob from a repository. Raises BlobUnknown, or BlobInUse; `gc` frees the space."""
        with self.catalog.lock:
            self.blob(repository, digest)
            if self.catalog.needing(repository, digest):
                raise BlobInUse(f"a manifest of {repository} needs {digest}")
            self.catalog.remove_blob(repository, digest)

    # manifests

    def put_manifest(
        self, repository: str, reference: str, media_type: str, data: bytes
    ) -> PushedManifest:
        """Keep a manifest under a tag or its own digest.

        Raises ManifestInvalid, ManifestBlobUnknown, DigestInvalid, StoreFull.
        """
        tag = None if is_digest(reference) else parse_tag(reference)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if tag is None and parse_digest(reference) != digest:
            raise DigestInvalid(f"the manifest is {digest}, not {reference}")
        facts = parse_manifest(data, media_type)
        path = self._incoming / f"{secrets.token_hex(16)}.manifest"
        with self.catalog.lock:
            if lost := self.catalog.missing(repository, facts):
                raise ManifestBlobUnknown(lost)
            self.room.promise(path, len(data))
            try:
                with path.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self._publish(path, digest)
                self.catalog.add_manifest(repository, digest, len(data), facts, tag, self._now())
            finally:
                self.room.release(path)
                path.unlink(missing_ok=True)
        return PushedManifest(digest, facts.subject)

    def manifest(self, repository: str, reference: str) -> StoredManifest:
        """Return a manifest by tag or digest, its bytes as they were pushed."""
        row = self.manifest_row(repository, reference)
        data = self._path(row.digest).read_bytes()
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != row.digest:
            raise StoreError(f"the manifest {row.digest} is damaged on the store's disk")
        return StoredManifest(row.digest, row.media_type, data)

    def manifest_row(self, repository: str, reference: str) -> ManifestRow:
        """Return what the catalog knows of a manifest. Raises ManifestUnknown."""
        digest: str | None = reference
        if is_digest(reference):
            parse_digest(reference)
        else:
            digest = self.catalog.tagged(repository, parse_tag(reference))
        row = self.catalog.manifest(repository, digest) if digest else None
        if row is None:
            raise ManifestUnknown(f"{repository} has no {reference}")
        return row

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete a tag, or by digest a manifest and all its tags. Raises ManifestUnknown."""
        with self.catalog.lock:
            row = self.manifest_row(repository, reference)
            if is_digest(reference):
                self.catalog.remove_manifest(repository, row.digest)
                self.catalog.remove_signatures(repository, row.digest)
            else:
                self.catalog.remove_tag(repository, reference)

    def tags(self, repository: str) -> tuple[str, ...]:
        """Return the tags in order. Raises NameUnknown."""
        if not self.catalog.has_repository(parse_name(repository)):
            raise NameUnknown(f"no repository {repository}")
        return self.catalog.tags(repository)


def _lock(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreBusy(
            f"another process uses {path.parent}", hint="stop it, or give another --data"
        ) from error
    return file


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
