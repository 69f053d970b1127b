"""The probe's parsers, on what programs and the kernel write, and on what they should not."""

from pathlib import Path

import pytest

from agent.errors import CommandFailed
from agent.model.inventory import Board, Drive, Found, Inventory, SecureBoot, Transport
from agent.model.wire import BadDocument
from agent.probe.board import parse_cpuinfo, parse_meminfo, probe_board
from agent.probe.contents import parse_wipefs, probe_contents
from agent.probe.firmware import probe_firmware
from agent.probe.network import Link, parse_ip_json
from agent.probe.page import find_warnings, render_inventory
from agent.probe.tree import Tree
from agent.probe.udev import parse_udev_db
from agent.probe.usage import Usage, parse_mountinfo, parse_swaps
from agent.system.command import Output
from tests.unit.fake_run import FakeRun

GPT = """{"signatures": [
 {"device":"/dev/vda","type":"gpt","usage":"partition-table","uuid":null,"label":null},
 {"device":"/dev/vda","type":"gpt","usage":"partition-table","uuid":null,"label":null},
 {"device":"/dev/vda","type":"PMBR","usage":"partition-table","uuid":null,"label":null},
 {"device":"/dev/vda1","type":"ext4","usage":"filesystem","uuid":"u-1","label":"root"}]}"""


def make_tree(root: Path, files: dict[str, str | bytes]) -> Tree:
    for name, data in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return Tree(root)


def test_a_table_is_told_once() -> None:
    assert parse_wipefs(GPT, ["/dev/vda", "/dev/vda1"]) == (
        Found(path="/dev/vda", what="gpt", usage="table"),
        Found(path="/dev/vda1", what="ext4", usage="filesystem", label="root", uuid="u-1"),
    )


def test_newer_wipefs_leaves_the_folder_out() -> None:
    found = parse_wipefs(GPT.replace("/dev/", ""), ["/dev/vda", "/dev/vda1"])
    assert [one.path for one in found] == ["/dev/vda", "/dev/vda1"]


def test_a_protective_mbr_alone_is_told() -> None:
    text = '{"signatures":[{"device":"a","type":"PMBR","usage":null,"uuid":null,"label":null}]}'
    assert parse_wipefs(text, ["a"]) == (Found(path="a", what="PMBR", usage="other"),)


@pytest.mark.parametrize("text", ["", "  \n", '{"signatures": []}'])
def test_an_empty_disk(text: str) -> None:
    assert parse_wipefs(text, ["/dev/vda"]) == ()


@pytest.mark.parametrize("text", ["{", "[]", '{"signatures": [{}]}', '{"signatures": null}'])
def test_an_answer_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadDocument, match="wipefs"):
        parse_wipefs(text, ["/dev/vda"])


def test_one_unreadable_partition_hides_no_other() -> None:
    command = "wipefs --no-act --json --output DEVICE,TYPE,USAGE,UUID,LABEL"
    ext4 = '{"device":"vda1","type":"ext4","usage":"filesystem","uuid":null,"label":null}'
    run = FakeRun(
        {
            f"{command} /dev/vda1 /dev/vda2": 1,
            f"{command} /dev/vda1": f'{{"signatures": [{ext4}]}}',
            f"{command} /dev/vda2": 1,
        }
    )
    assert probe_contents(run, ["/dev/vda1", "/dev/vda2"]) == (
        Found(path="/dev/vda1", what="ext4", usage="filesystem"),
        Found(path="/dev/vda2", what="unreadable", usage="other"),
    )
    assert run.lines[0] == f"{command} /dev/vda1 /dev/vda2"


def test_a_missing_wipefs_is_not_an_empty_disk() -> None:
    def missing(*_words: object, **_options: object) -> Output:
        raise CommandFailed("wipefs is not installed here")

    assert probe_contents(missing, ["/dev/vda"])[0].what == "unreadable"


def test_udev_database() -> None:
    text = (
        "P: /devices/x/block/sda\nN: sda\nS: disk/by-id/a\nE: DEVPATH=/devices/x/block/sda\n"
        "E: SUBSYSTEM=block\nE: ID_SERIAL_SHORT=a=b\n\nP: /devices/y\nE: DEVPATH=/devices/y\n"
        "E: SUBSYSTEM=net\n\n"
    )
    db = parse_udev_db(text)
    assert list(db) == ["sda"]
    assert db["sda"]["ID_SERIAL_SHORT"] == "a=b"


def test_mounts_and_swaps() -> None:
    mounts = parse_mountinfo(
        "27 1 254:3 / / rw - ext4 /dev/vda3 rw\n"
        "30 27 254:1 / /mnt/a\\040b rw shared:1 master:2 - vfat /dev/vda1 rw\n"
        "31 27 0:40 /@ /btrfs rw - btrfs /dev/vdb rw\ngarbage\n"
    )
    usage = Usage(mounts, parse_swaps("Filename Type Size\n/dev/vda2 partition 1 0 -2\n"))
    assert usage.mounted("254:1", "/dev/vda1") == ("/mnt/a b",)
    assert usage.mounted("254:16", "/dev/vdb") == ("/btrfs",)
    assert usage.mounted(None, "/dev/vdc") == ()
    assert usage.swaps == ("/dev/vda2",)


def test_memory_and_processors() -> None:
    assert parse_meminfo("MemTotal:       16384 kB\nMemFree: 1 kB\n") == 16 * 1024 * 1024
    assert parse_meminfo("") == 0
    assert parse_cpuinfo("processor : 0\nmodel name\t: A  B\n\nprocessor : 1\n") == ("A B", 2)
    assert parse_cpuinfo("") == ("unknown", 0)


def test_fields_that_the_maker_never_filled_name_nothing(tmp_path: Path) -> None:
    at = "/sys/class/dmi/id/"
    tree = make_tree(
        tmp_path,
        {
            at + "sys_vendor": "To Be Filled By O.E.M.\n",
            at + "product_name": "X11DPi\n",
            at + "product_serial": "0123456789\n",
            at + "product_uuid": "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n",
            at + "board_vendor": "Default string\n",
        },
    )
    assert probe_board(tree) == Board(product="X11DPi")


@pytest.mark.parametrize(
    ("secure", "setup", "expected"),
    [
        (b"\6\0\0\0\1", b"\6\0\0\0\0", SecureBoot.ON),
        (b"\6\0\0\0\0", b"\6\0\0\0\0", SecureBoot.OFF),
        (b"\6\0\0\0\0", b"\6\0\0\0\1", SecureBoot.SETUP),
        (b"\6\0\0", b"", SecureBoot.UNSUPPORTED),
    ],
)
def test_secure_boot(tmp_path: Path, secure: bytes, setup: bytes, expected: SecureBoot) -> None:
    at = "/sys/firmware/efi/efivars/{}-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    tree = make_tree(tmp_path, {at.format("SecureBoot"): secure, at.format("SetupMode"): setup})
    assert probe_firmware(tree) == ("uefi", expected)


def test_bios(tmp_path: Path) -> None:
    assert probe_firmware(Tree(tmp_path)) == ("bios", SecureBoot.UNSUPPORTED)


def test_a_tree_does_not_follow_links_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/link").symlink_to("/usr")
    assert Tree(tmp_path).target("/sys/link") is None
    assert Tree(tmp_path).text("/sys/none") is None
    assert Tree(tmp_path).names("/sys/none") == ()


def test_ip_json() -> None:
    text = (
        '[{"ifname":"e0","permaddr":"aa:bb:cc:dd:ee:ff","addr_info":['
        '{"local":"fe80::1","prefixlen":64},{"local":"10.0.0.1","prefixlen":8}]}]'
    )
    assert parse_ip_json(text) == (Link("e0", "aa:bb:cc:dd:ee:ff", ("10.0.0.1/8", "fe80::1/64")),)
    with pytest.raises(BadDocument, match="ip:"):
        parse_ip_json("[{}]")


def make_inventory(*disks: Drive) -> Inventory:
    return Inventory(
        firmware="bios",
        secure_boot=SecureBoot.UNSUPPORTED,
        arch="x86_64",
        kernel="6",
        board=Board(),
        cpu_model="c",
        cpus=1,
        memory_bytes=1,
        disks=disks,
    )


def make_drive(path: str, **changes: object) -> Drive:
    base: dict[str, object] = {"size_bytes": 1, "sector_bytes": 512, "physical_sector_bytes": 512}
    return Drive(path=path, **{**base, **changes})  # type: ignore[arg-type]


def test_warnings() -> None:
    both = (
        Found(path="/dev/sdb", what="gpt", usage="table"),
        Found(path="/dev/sdb", what="linux_raid_member", usage="raid"),
    )
    inventory = make_inventory(
        make_drive("/dev/sda", wwn="0x5", transport=Transport.SAS),
        make_drive("/dev/sdb", wwn="0x5", contents=both),
        make_drive("/dev/sdc", contents=(Found(path="c", what="unreadable", usage="other"),)),
    )
    assert list(find_warnings(inventory)) == [
        "/dev/sdb has a partition table and also linux_raid_member: one of them is a leftover",
        "/dev/sdc could not be read: what is on it is unknown",
        "/dev/sda, /dev/sdb have one wwn, 0x5: multipath, or clones",
    ]


def test_a_machine_without_anything_has_a_page() -> None:
    page = render_inventory(make_inventory())
    assert "Disks: none" in page
    assert "! no disk was found: is its controller's driver in the image?" in page
