"""CPU time inside the native calls of the engine, all of which release Python's lock.

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
import agent.store.pack


class NativeTime:
    """Counts, for all threads, the CPU seconds in the calls that `watch` has wrapped."""

    def __init__(self, *expected: str) -> None:
        """`expected`: the calls without which the engine cannot have done what it should."""
        self.seconds: dict[str, float] = {}
        self._expected = expected
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Wrap the native calls, for the rest of the process."""
        digests, packs, sockets = agent.store.digests, agent.store.pack, socket.socket
        for name in ("pwrite", "pwritev"):
            _replace(os, name, self._timed("write", getattr(os, name)))
        _replace(os, "preadv", self._timed("read", os.preadv))
        _replace(os, "fsync", self._timed("sync", os.fsync))
        _replace(sockets, "recv_into", self._timed("receive", sockets.recv_into))
        _replace(sockets, "sendall", self._timed("send", sockets.sendall))
        _replace(digests, "blake3", self._timed("digest", vars(digests)["blake3"]))
        hasher, update = vars(packs)["sha256"], self._timed_method("sha256", "update")
        _replace(packs, "sha256", lambda: _Hash(hasher(), update))
        packer, pack = zstandard.ZstdCompressor, self._timed_method("compress", "compress")
        _replace(zstandard, "ZstdCompressor", lambda **how: _Compressor(packer(**how), pack))
        unpacker, unpack = zstandard.ZstdDecompressor, self._timed_method("unpack", "readinto")
        _replace(
            zstandard, "ZstdDecompressor", lambda **how: _Decompressor(unpacker(**how), unpack)
        )

    @property
    def total(self) -> float:
        """Return all seconds. Raises RuntimeError if a call that must have been made was not."""
        for name in self._expected:
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


class _Watched:
    """A native thing, one of whose methods is watched."""

    def __init__(self, real: Any, watched: Callable[..., Any]) -> None:
        self._real = real
        self._watched = watched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Hash(_Watched):
    def update(self, data: Any) -> None:
        self._watched(self._real, data)


class _Compressor(_Watched):
    def compress(self, content: Any) -> Any:
        return self._watched(self._real, content)


class _Decompressor(_Watched):
    """Its readers are watched."""

    def stream_reader(self, source: memoryview) -> "_Reader":
        return _Reader(self._real.stream_reader(source), self._watched)


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
