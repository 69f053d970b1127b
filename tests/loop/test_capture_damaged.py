"""A server whose disk has a bad sector: captured by consent, and every word about it on the way."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from agent.errors import DiskError, PlanRefused, SourceUnfit, hint_of
from agent.flows.by_hand import receipt
from agent.flows.capture import capture
from agent.flows.deploy import make_plan, render_page
from agent.flows.workplace import Workplace
from agent.model.event import Happening, Level, Logged, PlanMade
from agent.model.inventory import Drive
from agent.model.job import CaptureSpec
from agent.store.registry import RegistryClient
from agent.store.template import open_template
from agent.stream.restore import restore_volume
from agent.stream.usedmap import UsedMap
from agent.system import block
from agent.system.command import Run
from agent.trust.keyring import Keyring
from agent.units import Extent
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.stream_builders import make_client
from tests.harness.bad_disk import bad_disk
from tests.loop.small import TARGET_BYTES, Loops, make_small_layout, planned_table
from tests.loop.test_table_source import source as source
from tests.unit.make_plan import make_drive, make_inventory, make_spec

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("needs_daemon")]


@dataclass
class World:
    registry: FakeRegistry
    client: RegistryClient
    drive: Drive
    told: list[Happening] = field(default_factory=list)

    def place(self, drive: Drive) -> Workplace:
        return Workplace(Run(), make_inventory(drive), self.told.append, self.client, Keyring())

    def capture(self, device: Path, *, damaged: bool) -> dict[str, object]:
        drive = msgspec.structs.replace(self.drive, path=str(device))
        return capture(self.place(drive), CaptureSpec(name="demo", damaged=damaged))


@pytest.fixture
def world(source: Drive, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """What the filesystems are is read from a sound copy; the data comes from the bad disk."""
    sound = Path(source.path)
    loops: dict[int, tuple[Loops, Path]] = {}

    def node(_disk: Path, number: int) -> str:
        if number not in loops:
            one = Loops()
            loops[number] = one, one.node(sound, number)
        return str(loops[number][1])

    monkeypatch.setattr(block, "partition_path", node)
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        yield World(registry, client, source)
        client.close()
    for one, _ in loops.values():
        one.close()


def test_from_the_bad_sector_to_the_plan_of_a_deployment(world: World, tmp_path: Path) -> None:
    part = planned_table(make_small_layout()).partition(1)
    assert part.size_bytes > 8192
    bad = Extent(part.offset_bytes + 4096, 512)
    with bad_disk(Path(world.drive.path), tmp_path / "bad", unreadable=(bad,)) as device:
        with pytest.raises(DiskError, match=rf"serial SN-1\) at {bad.offset}: Input/out") as caught:
            world.capture(device, damaged=False)
        assert "--accept-damage (metalcast.accept_damage=yes)" in (hint_of(caught.value) or "")
        assert world.registry.manifests == {}
        world.told.clear()
        result = world.capture(device, damaged=True)
    line = "512 B in 1 run could not be read on the source and are zeros, at 4096"
    template = open_template(world.client, str(result["digest"]))
    (hole,) = template.config.holes
    assert (hole.offset, hole.size) == (4096, 512)
    assert result["lost_bytes"] == 512
    assert result["damage"] == [f"{hole.volume}: {line}"]
    assert f"DAMAGED    {hole.volume}: {line}" in receipt(result)
    plans = [one.text for one in world.told if isinstance(one, PlanMade)]
    assert "what cannot be read on the disk is stored as zeros" in plans[0]
    warned = [one for one in world.told if isinstance(one, Logged) and one.level is Level.WARNING]
    assert [line in one.message for one in warned].count(True) == 1

    target = tmp_path / "target.img"
    target.write_bytes(bytes(part.size_bytes))
    restore_volume(template, hole.volume, target, 0)
    with Path(world.drive.path).open("rb") as disk:
        disk.seek(part.offset_bytes)
        wanted = bytearray(disk.read(part.size_bytes))
    assert any(wanted[4096:4608])
    wanted[4096:4608] = bytes(512)
    assert target.read_bytes() == wanted

    place = world.place(make_drive(size_bytes=TARGET_BYTES))
    reference = template.digest
    with pytest.raises(PlanRefused, match=rf"demo is damaged: {hole.volume}: {line} \(consent dam"):
        make_plan(place, make_spec(), reference, "j-000000000000")
    plan, _, trusted = make_plan(place, make_spec(consent=("damage",)), reference, "j-000000000000")
    assert f"the template is damaged, by consent: {hole.volume}: {line}" in render_page(
        plan, trusted
    )


def test_when_the_second_look_at_what_is_used_differs_nothing_is_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(_used: UsedMap) -> None:
        raise SourceUnfit(("the two maps of what is used differ",))

    monkeypatch.setattr(UsedMap, "confirm", differs)
    with pytest.raises(SourceUnfit, match="the two maps"):
        world.capture(Path(world.drive.path), damaged=False)
    assert world.registry.blobs, "it was asked at the end, when all was sent"
    assert world.registry.manifests == {}
