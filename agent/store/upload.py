"""A push that survives a cut: each piece is kept until the server acknowledges it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from agent.errors import ServerError
from agent.model.template import Digest
from agent.store.parts import Parts
from agent.store.registry import BlobUpload, RegistryClient
from agent.store.retry import Transient, Tries

Replay = Callable[[], Iterator[bytes]]
"""Makes the bytes of the blob, from its first to where `append` has got, once more."""


class ResumedUpload:
    """One blob on its way. After a failure the server is asked what it has.

    Only the piece that is not acknowledged is kept here. If the server has lost what it had
    acknowledged, the blob is begun again and `replay` makes those bytes anew; without `replay`
    that is an error.
    """

    def __init__(
        self,
        client: RegistryClient,
        replay: Replay | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._client = client
        self._retry = replace(client.retry, sleep=sleep) if sleep else client.retry
        self._replay = replay
        self._upload: BlobUpload | None = None
        self._acknowledged = 0

    def append(self, *parts: bytes) -> None:
        """Send `parts` and return when the server has them."""
        self._send(Parts(parts))

    def finish(self, digest: Digest) -> None:
        """Close the blob under its digest. A blob that is there already is good."""
        self._finish(digest)
        self._upload = self._replay = None

    def _finish(self, digest: Digest) -> None:
        tries = Tries(self._retry)
        while True:
            try:
                if self._upload is None:
                    self._upload = self._client.start_upload()
                self._upload.finish(digest)
            except Transient as error:
                tries.failed(error)
                if self._client.has_blob(digest):
                    return
                self._recover(Parts(()), error)
            except ServerError:
                if self._client.has_blob(digest):
                    return  # our first answer was lost on the way
                raise
            else:
                return

    def cancel(self) -> None:
        """Throw away what was sent; the server would do so by itself after a while."""
        if self._upload is not None:
            with contextlib.suppress(ServerError):
                self._upload.cancel()

    def _send(self, rest: Parts) -> None:
        tries = Tries(self._retry)
        while rest:
            try:
                if self._upload is None:
                    self._upload = self._client.start_upload()
                self._upload.patch(rest, self._acknowledged)
            except Transient as error:
                tries.failed(error)
                rest = self._recover(rest, error)
            else:
                self._acknowledged += len(rest)
                return

    def _recover(self, rest: Parts, error: Transient) -> Parts:
        """Return what of `rest` the server still lacks, after `error`."""
        if self._upload is None:
            return rest
        if self._acknowledged == 0:
            self._upload = None  # nothing is lost by beginning again
            return rest
        held = self._retry.call(self._upload.offset)
        got = -1 if held is None else held - self._acknowledged
        if 0 <= got <= len(rest):
            self._acknowledged += got
            return rest.behind(got)
        if self._replay is None:
            raise ServerError(
                f"{self._upload.location}: the server has lost bytes that it acknowledged",
                hint="capture again",
            ) from error
        self._restart(self._replay)
        return rest

    def _restart(self, replay: Replay) -> None:
        """Begin the blob again, up to where it was acknowledged."""
        wanted, self._acknowledged, self._upload = self._acknowledged, 0, None
        self._replay = None  # once: a server that loses bytes twice is not to be trusted
        for piece in replay():
            piece = piece[: wanted - self._acknowledged]
            if not piece:
                break
            self._send(Parts((piece,)))
        if self._acknowledged != wanted:
            raise ServerError("the bytes that the server has lost cannot be made again")
        self._replay = replay
