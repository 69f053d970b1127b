"""What the contract tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.api_server import Api, running
from tests.contracts.seeds import summary
from tests.contracts.trust_shop import Shop, open_shop


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if said := summary():
        terminalreporter.write_line(said)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with running(tmp_path / "data") as api:
        yield api


@pytest.fixture
def shop(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shop]:
    with open_shop(api, tmp_path, capsys) as shop:
        yield shop
