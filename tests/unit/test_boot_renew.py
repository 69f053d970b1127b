"""Which of a system's programs make it boot, what it may lack, and the ESPs kept equal."""

from pathlib import Path

import pytest

from agent.identity.boot.esp import make_equal
from agent.identity.boot.renew import (
    BootFailed,
    BootTarget,
    boot_programs,
    take_boot_code,
    take_head,
)
from agent.identity.boot.rewrite import rewrite_boot_files
from agent.identity.boot.tools import find_tools
from agent.identity.values import Deed
from agent.model.layout import Layout
from agent.model.template import Firmware, OsIdentity
from agent.planning.programs import missing_programs
from agent.system.rooted import RootedTree
from agent.tools import boot_sector
from tests.unit.make_tree import make_listed_tree
from tests.unit.test_boot_fstab import MD, NEW, OLD, ext, mirror, on_lvm, single, xfs

DEBIAN = """\
/usr/sbin/update-initramfs
/usr/sbin/grub-install
/usr/lib/grub/i386-pc/moddep.lst
/usr/lib/grub/x86_64-efi/moddep.lst
"""
ROCKY = """\
/usr/bin/dracut
/usr/sbin/grub2-install
/usr/lib/grub/i386-pc/moddep.lst
/boot/efi/EFI/rocky/shimx64.efi
"""
BOTH = (Firmware.BIOS, Firmware.UEFI)


def target(firmware: tuple[Firmware, ...] = BOTH) -> BootTarget:
    disks = (Path("/dev/null"), Path("/dev/zero"))  # any that are there
    return BootTarget(firmware, disks, disks, "debian")


def programs(tmp_path: Path, text: str, wanted: BootTarget) -> list[str]:
    make_listed_tree(tmp_path, text)
    with RootedTree(tmp_path) as tree:
        return [" ".join(argv) for argv, _limit in boot_programs(tree, wanted)]


def test_debian_gets_boot_code_on_every_disk_and_both_names_on_the_esp(tmp_path: Path) -> None:
    efi = "grub-install --target=x86_64-efi --efi-directory=/boot/efi --no-nvram --recheck"
    assert programs(tmp_path, DEBIAN, target()) == [
        "update-initramfs -u -k all",
        "grub-install --target=i386-pc --recheck /dev/null",
        "grub-install --target=i386-pc --recheck /dev/zero",
        f"{efi} --bootloader-id=debian",
        f"{efi} --removable",
        "grub-mkconfig -o /boot/grub/grub.cfg",
    ]


def test_red_hat_keeps_its_signed_loader(tmp_path: Path) -> None:
    assert programs(tmp_path, ROCKY, target((Firmware.UEFI,))) == [
        "dracut --force --regenerate-all",
        "grub2-mkconfig -o /boot/grub2/grub.cfg",
    ]


def test_a_system_without_such_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BootFailed, match="neither update-initramfs nor dracut"):
        programs(tmp_path, "/usr/sbin/grub-install\n", target())


def identity(tmp_path: Path, text: str, tool: str) -> OsIdentity:
    make_listed_tree(tmp_path, text)
    with RootedTree(tmp_path) as tree:
        tools = find_tools(tree)
    return OsIdentity(
        id="any",
        version="1",
        pretty_name="Any 1",
        kernel="6.1",
        bootloader="grub2",
        initramfs_tool=tool,
        network_stack=None,
        tools=tools,
    )


@pytest.mark.parametrize(
    ("layout", "packages"),
    [
        (mirror(), ["mdadm"]),
        (mirror(xfs()), ["mdadm", "xfsprogs"]),
        (on_lvm(ext()), ["lvm2"]),
        (on_lvm(ext(), encrypted=True), ["cryptsetup", "cryptsetup-initramfs", "lvm2"]),
        (single(), []),
    ],
)
def test_what_is_missing_is_named_with_its_package(
    layout: Layout, packages: list[str], tmp_path: Path
) -> None:
    found = missing_programs(identity(tmp_path, DEBIAN, "initramfs-tools"), layout, BOTH)
    assert sorted({line.split("install ")[1].split()[0] for line in found}) == packages


def test_a_system_that_has_all_lacks_nothing(tmp_path: Path) -> None:
    hooks = "/usr/share/initramfs-tools/hooks"
    text = f"{DEBIAN}/sbin/mdadm\n{hooks}/mdadm\n"
    assert missing_programs(identity(tmp_path, text, "initramfs-tools"), mirror(), BOTH) == ()


def test_boot_code_for_the_other_firmware_may_be_missing(tmp_path: Path) -> None:
    text = DEBIAN.replace("/usr/lib/grub/x86_64-efi/moddep.lst\n", "")
    os = identity(tmp_path, text, "initramfs-tools")
    assert missing_programs(os, single(), (Firmware.BIOS,)) == ()
    assert missing_programs(os, single(), (Firmware.UEFI,)) == (
        "Any 1 lacks what boot code for UEFI needs: "
        "install grub-efi-amd64-bin in the source and capture it again",
    )
    rocky = identity(tmp_path / "rocky", ROCKY, "dracut")
    assert missing_programs(rocky, single(), (Firmware.UEFI,)) == ()


def test_an_old_template_is_held_to_nothing(tmp_path: Path) -> None:
    make = identity(tmp_path, DEBIAN, "initramfs-tools")
    old = OsIdentity(
        id=make.id,
        version="1",
        pretty_name="Any 1",
        kernel=None,
        bootloader=None,
        initramfs_tool=None,
        network_stack=None,
    )
    assert missing_programs(old, mirror(), BOTH) == ()


def test_all_files_of_a_system_follow(tmp_path: Path) -> None:
    make_listed_tree(
        tmp_path,
        f"{DEBIAN}/etc/fstab: UUID={OLD} / ext4 errors=remount-ro 0 1\\n\n"
        "/etc/mdadm/mdadm.conf: HOMEHOST <system>\\n\n"
        "/etc/lvm/devices/system.devices: VERSION=1.1.1\\n\n"
        "/etc/initramfs-tools/conf.d/resume: RESUME=UUID=1\\n\n"
        "/etc/default/grub: GRUB_CMDLINE_LINUX=\\n\n"
        f"/boot/grub/grub.cfg: linux /vmlinuz root=UUID={OLD} ro\\n\n",
    )
    with RootedTree(tmp_path) as tree:
        touched = rewrite_boot_files(tree, single(), mirror())
        again = rewrite_boot_files(tree, single(), mirror())
    assert {one.path: one.deed for one in touched} == {
        "/etc/fstab": Deed.WRITTEN,
        "/etc/mdadm/mdadm.conf": Deed.WRITTEN,
        "/etc/lvm/devices/system.devices": Deed.REMOVED,
        "/etc/initramfs-tools/conf.d/resume": Deed.WRITTEN,
        "/boot/grub/grub.cfg": Deed.WRITTEN,
        "/etc/default/grub": Deed.WRITTEN,
    }
    assert f"UUID={NEW} / ext4 errors=remount-ro 0 1\n" in (tmp_path / "etc/fstab").read_text()
    assert MD in (tmp_path / "etc/mdadm/mdadm.conf").read_text()
    assert again == ()


def test_a_leg_gets_the_files_of_the_esp_and_loses_others(tmp_path: Path) -> None:
    source, leg = tmp_path / "source", tmp_path / "leg"
    for path, data in (("EFI/BOOT/BOOTX64.EFI", b"new"), ("EFI/debian/grub.cfg", b"menu")):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    (leg / "EFI/BOOT").mkdir(parents=True)
    (leg / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"old and longer")
    (leg / "EFI/old").mkdir()
    (leg / "EFI/old/loader.efi").write_bytes(b"gone")
    make_equal(source, leg)
    found = {str(path.relative_to(leg)): path.read_bytes() for path in leg.rglob("*.*")}
    assert found == {"EFI/BOOT/BOOTX64.EFI": b"new", "EFI/debian/grub.cfg": b"menu"}
    assert not (leg / "EFI/old").exists()


def test_boot_code_is_taken_away_and_the_rest_of_the_sector_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    code, rest = bytes(range(1, 221)) * 2, b"\x07" * 70
    disk.write_bytes(code + rest + b"\x55\xaa" + bytes(4096))
    assert take_boot_code(disk) == code
    assert disk.read_bytes()[:440] == boot_sector.PENDING_STUB
    assert disk.read_bytes()[440:510] == rest
    with pytest.raises(BootFailed, match="left no boot code"):
        take_boot_code(disk)


def test_the_head_of_an_esp_is_taken_away(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"a" * 4096 + b"b" * 4096 + b"c" * 4096)
    assert take_head(disk, 4096, 4096) == b"b" * 4096
    assert disk.read_bytes() == b"a" * 4096 + bytes(4096) + b"c" * 4096
    with pytest.raises(BootFailed, match="no filesystem at 4096"):
        take_head(disk, 4096, 4096)
