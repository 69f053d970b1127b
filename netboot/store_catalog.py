"""The store's table of contents, in SQLite: which repository has which blobs, manifests, tags.

Every method is one transaction, durable when it returns, and may be called from any thread.
The catalog names bytes and never holds them: a row is written after its file is on the disk.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.trust.templates import SIGNATURE_ARTIFACT
from netboot.store_errors import StoreError
from netboot.store_manifest import ManifestFacts

_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE upload (
    id TEXT PRIMARY KEY, repository TEXT NOT NULL, started_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE blob (
    repository TEXT NOT NULL, digest TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    used_at REAL NOT NULL, PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX blob_digest ON blob (digest);
CREATE TABLE manifest (
    repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
    artifact_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, config TEXT, config_type TEXT,
    subject TEXT, annotations TEXT NOT NULL, pushed_at REAL NOT NULL,
    PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX manifest_digest ON manifest (digest);
CREATE INDEX manifest_subject ON manifest (repository, subject);
CREATE TABLE need (
    repository TEXT NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, PRIMARY KEY (repository, manifest, digest)
) WITHOUT ROWID;
CREATE INDEX need_digest ON need (repository, digest);
CREATE TABLE tag (
    repository TEXT NOT NULL, tag TEXT NOT NULL, manifest TEXT NOT NULL,
    tagged_at REAL NOT NULL, PRIMARY KEY (repository, tag)
) WITHOUT ROWID;
"""
_TOUCH_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class UploadRow:
    id: str
    repository: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Unneeded:
    """Blobs that no manifest needs: those to free, as (repository, digest), and who has more."""

    free: frozenset[tuple[str, str]]
    busy: tuple[str, ...]
    """Repositories at work, whose unneeded blobs stay for now."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    repository: str
    digest: str
    media_type: str
    artifact_type: str
    size_bytes: int
    config: str | None
    config_type: str | None
    annotations: dict[str, str]
    pushed_at: float


_MANIFEST: Final = (
    "repository, digest, media_type, artifact_type, size_bytes, config, config_type,"
    " annotations, pushed_at"
)


class Catalog:
    """One open catalog. `lock` is held by whoever must do more than one thing at a time."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
            )
        elif found != _VERSION:
            raise StoreError(f"{path} is of version {found}; this release reads {_VERSION}")

    def close(self) -> None:
        with self.lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self.lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with self.lock:
            return self._db.execute(sql, values).fetchall()

    def _strings(self, sql: str, *values: object) -> tuple[str, ...]:
        return tuple(str(row[0]) for row in self._rows(sql, *values))

    # uploads

    def add_upload(self, row: UploadRow) -> None:
        with self._transaction() as db:
            db.execute(
                "INSERT INTO upload VALUES (?, ?, ?)", (row.id, row.repository, row.started_at)
            )

    def remove_upload(self, upload: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM upload WHERE id = ?", (upload,))

    def uploads(self) -> tuple[UploadRow, ...]:
        with self.lock:
            rows = self._db.execute("SELECT id, repository, started_at FROM upload").fetchall()
        return tuple(UploadRow(*row) for row in rows)

    # blobs

    def add_blob(
        self, repository: str, digest: str, size_bytes: int, now: float, upload: str | None = None
    ) -> None:
        """Say that `repository` has the blob; the `upload` that brought it is over."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO blob VALUES (?, ?, ?, ?)",
                (repository, digest, size_bytes, now),
            )
            if upload is not None:
                db.execute("DELETE FROM upload WHERE id = ?", (upload,))

    def blob_size(self, repository: str, digest: str) -> int | None:
        """Return the bytes of a blob that the repository has, else None."""
        with self.lock:
            row = self._db.execute(
                "SELECT size_bytes FROM blob WHERE repository = ? AND digest = ?",
                (repository, digest),
            ).fetchone()
        return None if row is None else int(row[0])

    def touch_blob(self, repository: str, digest: str, now: float) -> None:
        """Note that somebody counts on the blob, so that `expired_blobs` spares it."""
        with self.lock:
            stale = self._db.execute(
                "SELECT 1 FROM blob WHERE repository = ? AND digest = ? AND used_at < ?",
                (repository, digest, now - _TOUCH_S),
            ).fetchone()
            if stale:
                self._db.execute(
                    "UPDATE blob SET used_at = ? WHERE repository = ? AND digest = ?",
                    (now, repository, digest),
                )

    def remove_blob(self, repository: str, digest: str) -> bool:
        with self._transaction() as db:
            found = db.execute(
                "DELETE FROM blob WHERE repository = ? AND digest = ?", (repository, digest)
            )
            return found.rowcount > 0

    def needing(self, repository: str, digest: str) -> tuple[str, ...]:
        """Return the manifests of `repository` that need this blob or manifest."""
        return self._strings(
            "SELECT manifest FROM need WHERE repository = ? AND digest = ?", repository, digest
        )

    def unneeded(self, before: float, keep: Iterable[str]) -> Unneeded:
        """Return the blobs that no manifest of their repository needs.

        A repository that is at work is left alone whole: it is in `keep`, has an unfinished
        upload, or got or was asked for any blob since `before`.
        """
        sql = "SELECT repository, digest FROM blob EXCEPT SELECT repository, digest FROM need"
        recent = "SELECT repository FROM blob GROUP BY repository HAVING MAX(used_at) >= ?"
        with self.lock:
            rows = [(str(name), str(digest)) for name, digest in self._db.execute(sql)]
            busy = {*keep, *self._strings("SELECT repository FROM upload")}
            busy.update(self._strings(recent, before))
        return Unneeded(
            free=frozenset(row for row in rows if row[0] not in busy),
            busy=tuple(sorted({name for name, _ in rows if name in busy})),
        )

    def drop_expired_blobs(self, before: float, keep: Iterable[str]) -> Unneeded:
        """Forget the blobs that nothing needs, and return them; see `unneeded`."""
        with self._transaction() as db:
            found = self.unneeded(before, keep)
            db.executemany(
                "DELETE FROM blob WHERE repository = ? AND digest = ?", sorted(found.free)
            )
        return found

    def known_without(self, dropped: frozenset[tuple[str, str]]) -> frozenset[str]:
        """Return every digest that some repository would still have without `dropped`."""
        rows = self._rows("SELECT repository, digest FROM blob")
        blobs = {str(row[1]) for row in rows if (row[0], row[1]) not in dropped}
        return frozenset(blobs.union(self._strings("SELECT digest FROM manifest")))

    def is_known(self, digest: str) -> bool:
        """Say whether any repository has this digest, as a blob or a manifest."""
        sql = "SELECT 1 FROM blob WHERE digest = ?1 UNION SELECT 1 FROM manifest WHERE digest = ?1"
        return bool(self._rows(sql, digest))

    def contents(self) -> dict[str, int]:
        """Return every digest that the store should hold, with its size in bytes."""
        sql = "SELECT digest, size_bytes FROM blob UNION SELECT digest, size_bytes FROM manifest"
        with self.lock:
            return dict(self._db.execute(sql).fetchall())

    # manifests and tags

    def missing(self, repository: str, facts: ManifestFacts) -> tuple[str, ...]:
        """Return what the manifest names and the repository does not have, in that size."""
        lost = [
            link.digest
            for link in facts.blobs
            if self.blob_size(repository, link.digest) != link.size
        ]
        for link in facts.manifests:
            row = self.manifest(repository, link.digest)
            if row is None or row.size_bytes != link.size:
                lost.append(link.digest)
        return tuple(dict.fromkeys(lost))

    def add_manifest(
        self,
        repository: str,
        digest: str,
        size_bytes: int,
        facts: ManifestFacts,
        tag: str | None,
        now: float,
    ) -> None:
        config = facts.config
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO manifest VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    repository,
                    digest,
                    facts.media_type,
                    facts.artifact_type,
                    size_bytes,
                    config.digest if config else None,
                    config.media_type if config else None,
                    facts.subject,
                    msgspec.json.encode(facts.annotations).decode(),
                    now,
                ),
            )
            db.executemany(
                "INSERT OR IGNORE INTO need VALUES (?, ?, ?, ?)",
                [
                    (repository, digest, link.digest, link.size)
                    for link in (*facts.blobs, *facts.manifests)
                ],
            )
            if tag is not None:
                db.execute(
                    "INSERT OR REPLACE INTO tag VALUES (?, ?, ?, ?)", (repository, tag, digest, now)
                )

    def manifest(self, repository: str, digest: str) -> ManifestRow | None:
        found = self._manifests("repository = ? AND digest = ?", repository, digest)
        return found[0] if found else None

    def referrers(self, repository: str, subject: str) -> tuple[ManifestRow, ...]:
        return self._manifests("repository = ? AND subject = ?", repository, subject)

    def _manifests(self, where: str, *values: object) -> tuple[ManifestRow, ...]:
        sql = f"SELECT {_MANIFEST} FROM manifest WHERE {where} ORDER BY pushed_at, digest"  # noqa: S608
        with self.lock:
            rows = self._db.execute(sql, values).fetchall()
        return tuple(map(_manifest_row, rows))

    def remove_manifest(self, repository: str, digest: str) -> bool:
        """Forget a manifest and the tags that name it."""
        with self._transaction() as db:
            for table in ("tag", "need"):
                db.execute(
                    f"DELETE FROM {table} WHERE repository = ? AND manifest = ?",  # noqa: S608
                    (repository, digest),
                )
            found = db.execute(
                "DELETE FROM manifest WHERE repository = ? AND digest = ?", (repository, digest)
            )
            return found.rowcount > 0

    def remove_signatures(self, repository: str, subject: str) -> None:
        """Forget the signatures of a manifest that is gone: they are good for nothing else."""
        for row in self.referrers(repository, subject):
            if row.artifact_type == SIGNATURE_ARTIFACT:
                self.remove_manifest(repository, row.digest)

    def remove_lone_signatures(self, before: float) -> None:
        """Forget signatures from before that time whose manifest never came, or is gone."""
        found = self._manifests(
            "artifact_type = ? AND pushed_at < ? AND NOT EXISTS (SELECT 1 FROM manifest signed"
            " WHERE signed.repository = manifest.repository AND signed.digest = manifest.subject)",
            SIGNATURE_ARTIFACT,
            before,
        )
        for row in found:
            self.remove_manifest(row.repository, row.digest)

    def tagged(self, repository: str, tag: str) -> str | None:
        """Return the digest that the tag names, else None."""
        sql = "SELECT manifest FROM tag WHERE repository = ? AND tag = ?"
        found = self._strings(sql, repository, tag)
        return found[0] if found else None

    def remove_tag(self, repository: str, tag: str) -> bool:
        with self._transaction() as db:
            found = db.execute(
                "DELETE FROM tag WHERE repository = ? AND tag = ?", (repository, tag)
            )
            return found.rowcount > 0

    def tags_of(self, repository: str, digest: str) -> tuple[str, ...]:
        sql = "SELECT tag FROM tag WHERE repository = ? AND manifest = ? ORDER BY tag"
        return self._strings(sql, repository, digest)

    def tags(self, repository: str) -> tuple[str, ...]:
        return self._strings("SELECT tag FROM tag WHERE repository = ? ORDER BY tag", repository)

    def all_tags(self) -> tuple[tuple[str, str, str], ...]:
        """Return (repository, tag, digest) of every tag, in order."""
        sql = "SELECT repository, tag, manifest FROM tag ORDER BY repository, tag"
        with self.lock:
            return tuple(self._db.execute(sql).fetchall())

    def repositories(self) -> tuple[str, ...]:
        """Return the repositories that have a manifest, in order."""
        return self._strings("SELECT DISTINCT repository FROM manifest ORDER BY repository")

    def has_repository(self, repository: str) -> bool:
        sql = (
            "SELECT 1 FROM blob WHERE repository = ?1"
            " UNION SELECT 1 FROM manifest WHERE repository = ?1"
        )
        return bool(self._rows(sql, repository))

    def needed_bytes(self, repository: str, manifest: str) -> int:
        """Return the stored bytes of all that a manifest needs, each blob counted once."""
        sql = "SELECT SUM(size_bytes) FROM need WHERE repository = ? AND manifest = ?"
        with self.lock:
            found = self._db.execute(sql, (repository, manifest)).fetchone()[0]
        return int(found or 0)


def _manifest_row(row: Sequence[Any]) -> ManifestRow:
    repository, digest, media_type, artifact_type, size_bytes, config, config_type = row[:7]
    return ManifestRow(
        repository=repository,
        digest=digest,
        media_type=media_type,
        artifact_type=artifact_type,
        size_bytes=size_bytes,
        config=config,
        config_type=config_type,
        annotations=msgspec.json.decode(row[7]),
        pushed_at=row[8],
    )
