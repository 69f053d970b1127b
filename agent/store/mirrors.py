"""Several sources of one template, in order: what one does not give, or gives wrongly, the next
one gives. Every byte is verified whoever it came from.

A source that fails is left for the next, named once, and not tried again for a while. One that is
away, or wrong once, is tried again sooner when there is nobody else; one that told something wrong
twice is not.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from agent.errors import AgentError, ServerError, TemplateError
from agent.model.template import Descriptor, Digest
from agent.store.body import Body, Limits
from agent.store.folder import FolderSource
from agent.store.registry import RegistryClient
from agent.store.retry import Retry, Transient, Tries
from agent.store.source import RangeBody

T = TypeVar("T")
AWAY_S: Final = 60.0
LIED_S: Final = 900.0

WebSource = RegistryClient | FolderSource


@dataclass(slots=True)
class _Standing:
    """How one source has done. `error` None: well."""

    source: WebSource
    error: AgentError | None = None
    """Why it was left."""
    not_before: float = 0.0
    strikes: int = 0
    """How often it told something wrong; once may be a fault on the way."""
    is_named: bool = False

    @property
    def is_liar(self) -> bool:
        return self.strikes > 1


class Mirrors:
    """Reads from the first source that is good. Any thread may use it.

    The sources should be impatient (`Retry(attempts=1)`): the patience is here. `warn` hears of
    each source that is left, once, from any thread.
    """

    def __init__(
        self,
        sources: Sequence[WebSource],
        *,
        warn: Callable[[str], None] = lambda _: None,
        retry: Retry | None = None,
        limits: Limits | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not sources:
            raise ServerError("there is no source to read from")
        self.retry = retry or Retry()
        self.limits = limits or Limits()
        self._all = [_Standing(source) for source in sources]
        self._warn = warn
        self._now = now
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Mirrors({', '.join(one.source.url for one in self._all)})"

    @property
    def url(self) -> str:
        """The sources, as errors name them."""
        return " or ".join(one.source.url for one in self._all)

    def close(self) -> None:
        for one in self._all:
            one.source.close()

    def manifest(self, reference: str) -> tuple[bytes, Digest]:
        return self._patiently(lambda source: source.manifest(reference))

    def find_manifest(self, reference: str) -> tuple[bytes, Digest] | None:
        """Return what a tag names at the first source that has it: no other is worse for that.

        Signatures are found so: a mirror may hold a template without them.
        """
        found = self._patiently(lambda source: source.find_manifest(reference))
        for one in self._all:
            if found is not None:
                break
            try:
                found = None if one.is_liar else one.source.find_manifest(reference)
            except AgentError as error:
                self._leave(one, error)
        return found

    def blob(self, descriptor: Descriptor, max_bytes: int) -> bytes:
        return self._patiently(lambda source: source.blob(descriptor, max_bytes))

    def has_blob(self, digest: Digest) -> bool:
        """Return whether a source holds the blob. One that lacks it is no worse for that."""
        if self._patiently(lambda source: source.has_blob(digest)):
            return True
        for one in self._all:
            try:
                if not one.is_liar and one.source.has_blob(digest):
                    return True
            except AgentError as error:
                self._leave(one, error)
        return False

    def open_range(self, digest: Digest, offset: int, size: int, blob_bytes: int) -> Body:
        """Return a range of a blob from the first source that gives it. One attempt at each."""

        def opened(one: _Standing) -> Body:
            body = one.source.open_range(digest, offset, size, blob_bytes)
            body.origin = one
            body.failed = lambda error: self._leave(one, error)
            return body

        return self._first(opened)

    def blame(self, body: RangeBody, error: AgentError) -> bool:
        """Hear that what came in `body` was damaged; return whether another source is next.

        Raises TemplateError, which lists all sources, if none is left.
        """
        one = getattr(body, "origin", None)
        if not isinstance(one, _Standing):
            return False
        self._leave(one, TemplateError(f"a chunk from there {error}"))
        with self._lock:
            now = self._now()
            if any(not other.is_liar or now >= other.not_before for other in self._all):
                return True
        raise self._nobody() from error

    def _patiently(self, ask: Callable[[WebSource], T]) -> T:
        tries = Tries(self.retry)
        while True:
            try:
                return self._first(lambda one: ask(one.source))
            except Transient as error:
                tries.failed(error)

    def _first(self, ask: Callable[[_Standing], T]) -> T:
        """Return what the first good source answers, leaving those that fail.

        Raises Transient if all failed and one of them may only be away, else TemplateError.
        """
        tried: list[_Standing] = []
        while (one := self._next(tried)) is not None:
            tried.append(one)
            try:
                answer = ask(one)
            except (ServerError, TemplateError) as error:
                self._leave(one, error)
                continue
            self._is_back(one)
            return answer
        raise self._nobody()

    def _next(self, tried: list[_Standing]) -> _Standing | None:
        """Return whom to ask: the first in order that is not away, else one that may be back."""
        with self._lock:
            now = self._now()
            left = [one for one in self._all if one not in tried]
            for one in left:
                if one.error is None or now >= one.not_before:
                    return one
            maybe = [one for one in left if not one.is_liar]
            return min(maybe, key=lambda one: one.not_before, default=None)

    def _is_back(self, one: _Standing) -> None:
        with self._lock:
            if self._now() >= one.not_before:
                one.error, one.strikes = None, 0

    def _leave(self, one: _Standing, error: AgentError) -> None:
        with self._lock:
            one.strikes += not isinstance(error, Transient)
            one.error = error
            one.not_before = self._now() + (LIED_S if one.is_liar else AWAY_S)
            is_news, one.is_named = not one.is_named, True
        if is_news:
            self._warn(f"{one.source.url} is left for now: {error}")

    def _nobody(self) -> AgentError:
        with self._lock:
            reasons = [f"{one.source.url}: {one.error}" for one in self._all]
            is_over = all(one.is_liar for one in self._all)
        if len(self._all) == 1 and self._all[0].error is not None:
            return self._all[0].error
        text = "no source gives it: " + "; ".join(reasons)
        hint = "metalcast template verify --deep says which of them is damaged"
        return TemplateError(text, hint=hint) if is_over else Transient(text)
