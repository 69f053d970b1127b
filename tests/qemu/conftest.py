"""What the machine tests share, because it is dear: an image, a source server, whole flows."""

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.disks import copy_disk
from tests.harness.flow import Flow, LivedIn, live_in
from tests.harness.image import boot_image
from tests.harness.machine import Firmware
from tests.harness.rack import Lived, Rack
from tests.harness.source import source_disk


@pytest.fixture(scope="session")
def run_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for this run's disks and logs; it stays when a test failed."""
    folder = Path(tempfile.mkdtemp(prefix="metalcast-test-"))
    yield folder
    if request.session.testsfailed:
        print(f"\nlogs and disks are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def image() -> Path:
    return boot_image()


@pytest.fixture(scope="session")
def lived(run_folder: Path) -> LivedIn:
    """A source server that has lived. Copy its disk before use."""
    folder = run_folder / "lived"
    folder.mkdir()
    return live_in("bios", source_disk(), folder)


@dataclasses.dataclass
class Flown:
    """A flow that was carried out as far as it went, and what stopped it."""

    flow: Flow
    stopped: BaseException | None


@pytest.fixture(scope="session")
def flown(run_folder: Path, image: Path, lived: LivedIn) -> Iterator[Callable[[Firmware], Flown]]:
    """Carry out the demo's flow on a firmware, once; its server stays up for other tests."""
    done: dict[Firmware, Flown] = {}

    def fly(firmware: Firmware) -> Flown:
        if firmware not in done:
            flow = Flow(firmware, run_folder / firmware, image, source_disk())
            done[firmware] = Flown(flow, None)
            try:
                disk = copy_disk(lived.disk, flow.folder / "source.raw")
                own = dataclasses.replace(lived, disk=disk)
                flow.start_server()
                flow.capture(own)
                flow.deploy(own)
                flow.first_boot(own)
            except (AssertionError, RuntimeError, OSError) as error:
                done[firmware].stopped = error
            if flow.target:
                flow.target.stop()
        return done[firmware]

    yield fly
    for one in done.values():
        one.flow.stop()


@pytest.fixture(scope="session")
def rack(run_folder: Path, image: Path) -> Iterator[Rack]:
    """A server, and machines of any disks and layout around it."""
    rack = Rack(run_folder / "rack", image)
    rack.start()
    yield rack
    rack.stop()


@pytest.fixture(scope="session")
def storage_server(rack: Rack) -> Lived:
    """A source server of one disk that has lived and has every storage tool."""
    return rack.live_in()


@pytest.fixture(scope="session")
def storage_template(rack: Rack, storage_server: Lived) -> Callable[[Firmware], str]:
    """Return the template captured of `storage_server` on a machine of that firmware."""
    done: dict[Firmware, str] = {}

    def captured(firmware: Firmware) -> str:
        if firmware not in done:
            rack.capture(f"storage-{firmware}", [storage_server.disk], firmware)
            done[firmware] = f"storage-{firmware}"
        return done[firmware]

    return captured
