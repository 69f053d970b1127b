"""Where templates go: a registry's repository, or a folder with an OCI layout."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from agent.model.template import Descriptor, Digest
from agent.store.hold import holding
from agent.store.layout import LayoutFolder
from agent.store.pack import Upload
from agent.store.registry import RegistryClient
from agent.store.source import BlobSource
from agent.store.upload import Replay, ResumedUpload

Sleep = Callable[[float], None]


class Target(Protocol):
    """Where a template goes."""

    @property
    def reading(self) -> BlobSource:
        """What is there, to be read."""
        ...

    def has(self, blob: Descriptor) -> bool: ...

    def take_over(self, blob: Descriptor, source: BlobSource) -> bool:
        """Get the blob from `source` without its bytes passing through here, if that can be."""
        ...

    def writer(self, blob: Descriptor) -> Upload: ...

    def begin(self, replay: Replay | None = None, sleep: Sleep | None = None) -> Upload:
        """Return the upload of a blob whose digest is known when it ends.

        `replay` makes what was sent once more, `sleep` waits between attempts.
        """
        ...

    def put_manifest(self, data: bytes, tag: str, artifact_type: str) -> Digest: ...

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """What is pushed is kept while this lasts, though no manifest needs it yet."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryTarget:
    client: RegistryClient

    @property
    def reading(self) -> BlobSource:
        return self.client

    def has(self, blob: Descriptor) -> bool:
        return self.client.has_blob(blob.digest)

    def take_over(self, blob: Descriptor, source: BlobSource) -> bool:
        if not isinstance(source, RegistryClient) or source.base_url != self.client.base_url:
            return False
        return self.client.mount(blob.digest, source.repository)

    def writer(self, blob: Descriptor) -> Upload:
        del blob
        return ResumedUpload(self.client)

    def begin(self, replay: Replay | None = None, sleep: Sleep | None = None) -> Upload:
        return ResumedUpload(self.client, replay, sleep)

    def put_manifest(self, data: bytes, tag: str, artifact_type: str) -> Digest:
        del artifact_type
        return self.client.put_manifest(data, tag)

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        return holding(self.client)


@dataclass(frozen=True, slots=True)
class FolderTarget:
    folder: LayoutFolder

    @property
    def reading(self) -> BlobSource:
        return self.folder

    def has(self, blob: Descriptor) -> bool:
        return self.folder.is_whole(blob)

    def take_over(self, blob: Descriptor, source: BlobSource) -> bool:
        del blob, source
        return False

    def writer(self, blob: Descriptor) -> Upload:
        return self.folder.writer(blob.digest)

    def begin(self, replay: Replay | None = None, sleep: Sleep | None = None) -> Upload:
        del replay, sleep
        return self.folder.writer()

    def put_manifest(self, data: bytes, tag: str, artifact_type: str) -> Digest:
        return self.folder.put_manifest(data, tag, artifact_type)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        self.folder.prepare()
        with self.folder.locked():
            self.folder.sweep()
            yield
