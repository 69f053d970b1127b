"""CPU time inside the native calls of a restore, all of which release Python's lock.

What a process takes beyond it is Python: bytecode, small copies, calls. That is an upper bound of
how long the lock is held.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import zstandard

import agent.store.digests


class NativeTime:
    """Counts, for all threads, the CPU seconds in the calls that `watch` has wrapped."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Wrap the native calls of a restore, for the rest of the process."""
        digests, sockets = agent.store.digests, socket.socket
        for name in ("pwrite", "pwritev"):
            _replace(os, name, self._timed("write", getattr(os, name)))
        _replace(os, "preadv", self._timed("read", os.preadv))
        _replace(os, "fsync", self._timed("sync", os.fsync))
        _replace(sockets, "recv_into", self._timed("receive", sockets.recv_into))
        _replace(digests, "blake3", self._timed("digest", vars(digests)["blake3"]))
        made = zstandard.ZstdDecompressor
        unpack = self._timed_method("unpack", "readinto")
        _replace(zstandard, "ZstdDecompressor", lambda **how: _Decompressor(made(**how), unpack))

    @property
    def total(self) -> float:
        """Return all seconds. Raises RuntimeError if a call that must have been made was not."""
        for name in ("write", "receive", "digest", "unpack"):
            if not self.seconds.get(name):
                raise RuntimeError(f"nothing was seen of {name}: the engine calls something else")
        return sum(self.seconds.values())

    def reset(self) -> None:
        self.seconds = {}

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any, **options: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*words, **options)
            finally:
                taken = time.thread_time() - started
                with self._lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + taken

        return timed

    def _timed_method(self, name: str, method: str) -> Callable[..., Any]:
        return self._timed(name, lambda thing, *words: getattr(thing, method)(*words))


class _Decompressor:
    """A ZstdDecompressor whose readers are watched."""

    def __init__(self, real: Any, unpack: Callable[..., Any]) -> None:
        self._real = real
        self._unpack = unpack

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def stream_reader(self, source: memoryview) -> "_Reader":
        return _Reader(self._real.stream_reader(source), self._unpack)


class _Reader(AbstractContextManager["_Reader"]):
    def __init__(self, real: Any, unpack: Callable[..., Any]) -> None:
        self._real = real
        self._unpack = unpack

    def __exit__(self, *_: object) -> None:
        self._real.close()

    def readinto(self, buffer: Any) -> int:
        return int(self._unpack(self._real, buffer))


def _replace(place: Any, name: str, value: object) -> None:
    setattr(place, name, value)
