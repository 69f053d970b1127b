"""What the store refuses, and why. `netboot.registry` gives each its HTTP status and OCI code."""

from agent.errors import AgentError


class StoreError(AgentError):
    """The store cannot do what was asked."""


class StoreBusy(StoreError):
    """Another process holds the data directory."""


class NameInvalid(StoreError):
    """Not the name of a repository, tag or template."""


class NameUnknown(StoreError):
    """No such repository."""


class DigestInvalid(StoreError):
    """Not a SHA-256 digest, or not that of the bytes that came."""


class BlobUnknown(StoreError):
    """The repository has no such blob."""


class BlobInUse(StoreError):
    """A manifest of the repository still needs the blob."""


class UploadUnknown(StoreError):
    """No such upload in this repository: never begun, finished, cancelled or swept."""


class UploadSuperseded(StoreError):
    """Another connection has taken this upload over."""


class UploadOutOfOrder(StoreError):
    """The piece does not begin where the upload stands. `offset` is where it stands, in bytes."""

    def __init__(self, at: int, offset: int) -> None:
        super().__init__(f"the piece begins at {at}, the upload stands at {offset}")
        self.offset = offset


class TooManyUploads(StoreError):
    """More unfinished uploads than a store keeps."""


class BlobTooLarge(StoreError):
    """More bytes than one blob may have."""


class StoreFull(StoreError):
    """Not enough space on the store's disk."""


class ManifestUnknown(StoreError):
    """No such manifest or tag."""


class ManifestInvalid(StoreError):
    """Not a manifest that the store can keep."""


class ManifestBlobUnknown(StoreError):
    """The manifest names blobs that the repository does not have."""

    def __init__(self, digests: tuple[str, ...]) -> None:
        super().__init__(f"the manifest names what is not here: {', '.join(digests[:5])}")
        self.digests = digests
