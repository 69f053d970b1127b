"""A server with a template and an operator who signs: what the trust tests share."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.store.registry import RegistryClient
from agent.store.retry import Retry
from netboot.cli.words import main
from tests.contracts.api_server import (
    Api,
)
from tests.contracts.stream_builders import capture, make_source, mixed_bytes

ONCE = Retry(attempts=1)


@dataclass
class Shop:
    """A server, its operator, a template in its store, and a place for keys."""

    api: Api
    folder: Path
    client: RegistryClient
    digest: str
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> tuple[int, str, str]:
        status = main([*words])
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err

    def ask(self, *words: str) -> tuple[int, str, str]:
        token = self.folder / "token"
        token.write_text(self.api.token or "")
        return self.run(*words, "--server", self.api.url, "--token-file", str(token))

    def key(self, name: str) -> Path:
        path = self.folder / f"{name}.key"
        status, _, err = self.run(
            "template", "keygen", "--no-password", "--output", str(self.folder / name)
        )
        assert status == 0, err
        return path

    def sign(self, key: Path, place: str = "demo") -> dict[str, Any]:
        status, out, err = self.ask("template", "sign", place, "--key", str(key), "--json")
        assert status == 0, err
        found: dict[str, Any] = json.loads(out)
        return found


@contextmanager
def open_shop(api: Api, folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shop]:
    client = RegistryClient(api.url, "demo", api.token, retry=ONCE)
    digest = capture(client, make_source(folder, mixed_bytes(200_000, 1))).digest
    yield Shop(api, folder, client, digest, capsys)
    client.close()
