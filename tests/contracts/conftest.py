"""What the contract tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.api_server import Api, running


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with running(tmp_path / "data") as api:
        yield api
