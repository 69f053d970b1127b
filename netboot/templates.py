"""The templates in the store, as operators see them. Calls to the store run on threads."""

import asyncio
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from agent.model.template import TemplateConfig
from agent.model.wire import BadDocument
from netboot.problems import ProblemError, bad_request, not_found, unprocessable
from netboot.store import Freed, Store, StoredTemplate
from netboot.store_errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    StoreError,
)
from netboot.values import GcReport, GcRequest, TemplateShown, TemplateSummary

P = ParamSpec("P")
T = TypeVar("T")


class Templates:
    def __init__(self, store: Store) -> None:
        self.store = store

    async def list(self) -> tuple[TemplateSummary, ...]:
        """Return every template, by name and tag. Artifacts of other kinds are left out."""
        return await asyncio.to_thread(self._list)

    async def show(self, reference: str) -> TemplateShown:
        """Return one template. Raises ProblemError."""
        return await self._ask(self._show, reference)

    async def resolve(self, reference: str) -> str:
        """Return the digest that `reference` names, of a manifest that is a template's.

        Raises ProblemError; the message lists what there is.
        """
        try:
            shown = await self._ask(self._show, reference)
        except ProblemError as error:
            known = sorted({one.name for one in await self.list()})
            names = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
            if error.status != 404:
                raise
            raise unprocessable(
                f"unknown template {reference}; known: {names or 'none'}",
                "metalcast template ls" if known else "capture a machine first",
            ) from error
        return shown.summary.digest

    async def remove(self, reference: str) -> str:
        """Remove a template, or just a tag if others name it too; return the digest."""
        return await self._ask(self.store.delete_template, reference)

    async def sweep(self, asked: GcRequest, keep: Callable[[], Iterable[str]]) -> GcReport:
        """Free what no template needs, or say what that would be. `keep` names the repositories
        that a job is at work on. Raises ProblemError."""

        def call() -> Freed:
            do = self.store.would_free if asked.dry_run else self.store.gc
            return do(asked.grace_s, tuple(keep()))

        freed = await self._ask(call)
        return GcReport(
            dry_run=asked.dry_run,
            uploads=freed.uploads,
            blobs=freed.blobs,
            bytes=freed.bytes,
            busy=freed.busy,
        )

    async def check_captured(self, name: str, digest: str | None) -> None:
        """Raise ProblemError unless `digest` is a whole template that the store has as `name`."""
        if digest is None:
            raise unprocessable("a capture succeeds with result.digest: the manifest's digest")
        try:
            await self._ask(self._show, f"{name}@{digest}")
        except ProblemError as error:
            raise unprocessable(f"{name}@{digest} is not in the store as a template") from error

    async def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except (NameInvalid, DigestInvalid) as error:
            raise bad_request(str(error)) from error
        except (ManifestUnknown, NameUnknown, BlobUnknown) as error:
            raise not_found(str(error), "metalcast template ls") from error
        except (StoreError, BadDocument) as error:
            raise unprocessable(str(error)) from error

    def _list(self) -> tuple[TemplateSummary, ...]:
        found = ((one, one.config) for one in self.store.templates())
        return tuple(_summary(one, config) for one, config in found if config)

    def _show(self, reference: str) -> TemplateShown:
        found = self.store.template(reference)
        if found.config is None:
            raise BadDocument(f"{reference} is no template that this release can read")
        return TemplateShown(summary=_summary(found, found.config), config=found.config)


def _summary(found: StoredTemplate, config: TemplateConfig) -> TemplateSummary:
    return TemplateSummary(
        name=found.repository,
        tag=found.tag,
        digest=found.digest,
        captured_at=config.captured_at,
        firmware=config.firmware,
        boots=config.boots,
        os=config.os.pretty_name if config.os else None,
        disk_bytes=sum(disk.size_bytes for disk in config.layout.disks),
        used_bytes=sum(volume.used_bytes for volume in config.layout.volumes),
        stored_bytes=found.size_bytes,
        lost_bytes=sum(hole.size for hole in config.holes),
    )
