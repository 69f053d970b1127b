"""Where templates live: verified blobs in a directory, a catalog of who has them.

```text
DIR/blobs/sha256/ab/abcdef…   finished blobs and manifests; each was hashed before it got its name
DIR/uploads/ID                what has arrived of a blob
DIR/store.sqlite              which repository has which blobs, manifests and tags
DIR/store.lock                held by the one process that may write here
```

A blob is written to `uploads/`, synced, renamed into `blobs/`, its directory synced, and only then
named in the catalog; so a kill or a power cut at any point leaves uploads that go on, or files that
nothing names and `gc` removes. docs/store.md says more.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.model.template import CONFIG_MAX_BYTES, CONFIG_TYPE, TemplateConfig
from agent.model.wire import BadDocument, decode
from netboot.store_catalog import ManifestRow
from netboot.store_content import DAY_S, Blob, Content, Limits, digest_of
from netboot.store_errors import ManifestUnknown, StoreError
from netboot.store_names import is_digest, parse_reference

__all__ = ["Blob", "Freed", "Limits", "Store", "StoredTemplate"]


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """One tag of the store, for those who list templates."""

    repository: str
    tag: str
    digest: str
    size_bytes: int
    """What the manifest and its blobs take, each blob counted once, shared or not."""
    created_at: str
    """When the manifest was pushed: RFC 3339, UTC."""
    config: TemplateConfig | None
    """None when the artifact is no template of ours, or one of a version that we cannot read."""


@dataclass(frozen=True, slots=True)
class Freed:
    """What `gc` removed, or would remove."""

    uploads: int
    blobs: int
    bytes: int
    busy: tuple[str, ...] = ()
    """Repositories that are at work, and have blobs that nothing needs yet."""


class Store(Content):
    """One data directory. Methods block and may be called from any thread."""

    def templates(self) -> tuple[StoredTemplate, ...]:
        """Return every tag, by repository and tag."""
        found: list[StoredTemplate] = []
        for repository, tag, digest in self.catalog.all_tags():
            row = self.catalog.manifest(repository, digest)
            if row is not None:  # else deleted since we asked
                found.append(self._template(tag, row))
        return tuple(found)

    def template(self, reference: str) -> StoredTemplate:
        """Return what `reference` names; `tag` is empty if it names a digest."""
        named = parse_reference(reference)
        row = self.manifest_row(named.repository, self.resolve(reference))
        return self._template("" if is_digest(named.target) else named.target, row)

    def _template(self, tag: str, row: ManifestRow) -> StoredTemplate:
        return StoredTemplate(
            repository=row.repository,
            tag=tag,
            digest=row.digest,
            size_bytes=row.size_bytes + self.catalog.needed_bytes(row.repository, row.digest),
            created_at=datetime.fromtimestamp(row.pushed_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            config=self._config(row),
        )

    def _config(self, row: ManifestRow) -> TemplateConfig | None:
        if row.config is None or row.config_type != CONFIG_TYPE:
            return None
        try:
            data = self.small_blob(row.repository, row.config)
            return decode(data, TemplateConfig, f"config of {row.repository}")
        except (BadDocument, StoreError, OSError):
            return None

    def resolve(self, reference: str) -> str:
        """Return the manifest digest that `web`, `web:tag` or `web@sha256:…` names."""
        named = parse_reference(reference)
        try:
            return self.manifest_row(named.repository, named.target).digest
        except ManifestUnknown as error:
            raise ManifestUnknown(f"no template {named} in the store") from error

    def delete_template(self, reference: str) -> str:
        """Delete a tag, and its manifest if no other tag names it; return the digest."""
        named = parse_reference(reference)
        with self.catalog.lock:
            digest = self.resolve(reference)
            if not is_digest(named.target):
                self.catalog.remove_tag(named.repository, named.target)
                if self.catalog.tags_of(named.repository, digest):
                    return digest
            self.catalog.remove_manifest(named.repository, digest)
            self.catalog.remove_signatures(named.repository, digest)
        return digest

    def small_blob(self, repository: str, digest: str) -> bytes:
        """Return a blob of at most 4 MiB. Raises BlobUnknown."""
        blob = self.blob(repository, digest)
        if blob.size_bytes > CONFIG_MAX_BYTES:
            raise StoreError(f"{digest} has more than {CONFIG_MAX_BYTES} bytes")
        return blob.path.read_bytes()

    def gc(
        self, grace_s: float = DAY_S, keep: Iterable[str] = (), *, stale_s: float | None = None
    ) -> Freed:
        """Free what nothing needs.

        A repository that is in `keep`, has an unfinished upload, or was pushed to within `grace_s`
        keeps all of its blobs, for its manifest may still come. An upload that nobody went on with
        for `stale_s` (None: `grace_s`) is removed.
        """
        before = self._now() - grace_s
        uploads = self.sweep_uploads(grace_s if stale_s is None else stale_s)
        self.catalog.remove_lone_signatures(before)
        dropped = self.catalog.drop_expired_blobs(before, keep)
        blobs = freed = 0
        for path in sorted(self._blobs.glob("??/*")):
            with self.catalog.lock:
                status = path.stat()
                if status.st_mtime < before and not self.catalog.is_known(f"sha256:{path.name}"):
                    path.unlink()
                    blobs, freed = blobs + 1, freed + status.st_size
        return Freed(uploads, blobs, freed, dropped.busy)

    def would_free(
        self, grace_s: float = DAY_S, keep: Iterable[str] = (), *, stale_s: float | None = None
    ) -> Freed:
        """Return what `gc` would do now; change nothing."""
        before = self._now() - grace_s
        stale = self.stale_uploads(grace_s if stale_s is None else stale_s)
        found = self.catalog.unneeded(before, keep)
        known = self.catalog.known_without(found.free)
        sizes: list[int] = []
        for path in self._blobs.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if status.st_mtime < before and f"sha256:{path.name}" not in known:
                    sizes.append(status.st_size)
        return Freed(len(stale), len(sizes), sum(sizes), found.busy)

    def find_damage(self, *, deep: bool = False) -> tuple[str, ...]:
        """Return a line for each blob that is lost or wrong; `deep` reads and hashes them all."""
        lines: list[str] = []
        for digest, size_bytes in self.catalog.contents().items():
            path = self._path(digest)
            if not path.exists():
                lines.append(f"{digest} is lost")
            elif path.stat().st_size != size_bytes:
                lines.append(f"{digest} has {path.stat().st_size} bytes, not {size_bytes}")
            elif deep and digest_of(path) != digest:
                lines.append(f"{digest} is damaged")
        return tuple(lines)
