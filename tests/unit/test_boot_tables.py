"""crypttab, mdadm.conf, kernel arguments and GRUB's files for another layout."""

import pytest

from agent.identity.boot.crypttab import render_crypttab
from agent.identity.boot.grub import (
    rewrite_arguments,
    rewrite_bls,
    rewrite_default_grub,
    rewrite_grub_cfg,
    rewrite_grubenv,
    root_arguments,
)
from agent.identity.boot.initramfs import render_resume
from agent.identity.boot.mdadm_conf import render_mdadm_conf
from tests.unit.test_boot_fstab import MD, NEW, OLD, ext, mirror, on_lvm, single, xfs

LUKS = "99999999-0c63-4a0e-9a5a-8f8e21d5a001"

# Debian 12's own, with the arrays of its last owner
MDADM = """\
# mdadm.conf
#
# !NB! Run update-initramfs -u after updating this file.
#DEVICE partitions containers

# automatically tag new arrays as belonging to the local system
HOMEHOST <system>

# instruct the monitoring daemon where to send mail alerts
MAILADDR root

# definitions of existing MD arrays
ARRAY /dev/md/1  metadata=1.2 UUID=deadbeef:deadbeef:deadbeef:deadbeef name=old:1
   devices=/dev/sda1,/dev/sdb1
array /dev/md2 UUID=deadbeef:deadbeef:deadbeef:deadbee2

# This configuration was auto-generated on Tue, 01 Aug 2023 10:00:00 +0000 by mkconf
"""


def test_arrays_of_the_new_layout_alone_are_named() -> None:
    found = render_mdadm_conf(MDADM, mirror())
    assert "deadbeef" not in found
    assert "devices=" not in found
    assert found.endswith(f"mkconf\nARRAY /dev/md/0 metadata=1.2 UUID={MD}\n")
    kept = [line for line in MDADM.splitlines() if line.startswith(("#", "HOME", "MAIL"))]
    assert [line for line in found.splitlines() if line in kept] == kept
    assert render_mdadm_conf(found, mirror()) == found
    assert "ARRAY" not in render_mdadm_conf(MDADM, single())


def test_a_new_container_is_opened_by_the_initramfs() -> None:
    text = "# <target name>\t<source device>\t<key file>\t<options>\n"
    found = render_crypttab(text, single(), on_lvm(ext(), encrypted=True), initramfs_tools=True)
    assert found == f"{text}luks-{LUKS} UUID={LUKS} none luks,initramfs\n"
    dracut = render_crypttab(text, single(), on_lvm(ext(), encrypted=True), initramfs_tools=False)
    assert dracut == f"{text}luks-{LUKS} UUID={LUKS} none luks\n"


def test_a_container_that_stays_keeps_its_key_and_options() -> None:
    there = on_lvm(ext(), encrypted=True)
    text = f"luks-{LUKS} /dev/sda2 /etc/keys/a luks,discard\nother UUID=1234 none luks\n"
    found = render_crypttab(text, there, there, initramfs_tools=True)
    assert found == (
        f"luks-{LUKS} UUID={LUKS} /etc/keys/a luks,discard,initramfs\nother UUID=1234 none luks\n"
    )
    gone = render_crypttab(text, there, single(), initramfs_tools=True)
    assert gone == "other UUID=1234 none luks\n"


def test_swap_with_a_random_key_goes() -> None:
    text = "cswap /dev/sda5 /dev/urandom swap,cipher=aes-xts-plain64,size=512\n"
    assert render_crypttab(text, single(), mirror(), initramfs_tools=True) == ""


def test_dracut_is_told_what_root_stands_on() -> None:
    # CentOS 7's default installation
    line = (
        "crashkernel=auto rd.lvm.lv=centos/root rd.lvm.lv=centos/swap "
        "rd.md=0 root=/dev/mapper/centos-root ro rhgb quiet"
    )
    wanted = root_arguments(mirror(xfs()), dracut=True)
    assert rewrite_arguments(line, wanted) == (
        f"crashkernel=auto root=UUID={NEW} ro rhgb quiet rd.md.uuid={MD}"
    )
    wanted = root_arguments(on_lvm(xfs(), encrypted=True), dracut=True)
    assert rewrite_arguments(line, wanted) == (
        "crashkernel=auto rd.lvm.lv=vg-a/root rd.lvm.lv=vg-a/swap "
        f"root=/dev/mapper/vg--a-root ro rhgb quiet rd.luks.uuid=luks-{LUKS}"
    )


def test_resume_is_followed_and_never_added() -> None:
    wanted = root_arguments(on_lvm(ext()), dracut=False)
    assert rewrite_arguments("ro resume=/dev/sda3 quiet", wanted) == (
        f"ro resume=UUID={NEW} quiet root=/dev/mapper/vg--a-root"
    )
    assert "resume" not in rewrite_arguments("ro", wanted)
    assert "resume" not in rewrite_arguments(
        "resume=/dev/sda3", root_arguments(mirror(), dracut=False)
    )


def test_default_grub_of_debian_stays() -> None:
    text = 'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\n'
    wanted = root_arguments(mirror(), dracut=False)
    same = rewrite_default_grub(text, wanted, dracut=False, boot_is_encrypted=False)
    assert same == text
    found = rewrite_default_grub(text, wanted, dracut=False, boot_is_encrypted=True)
    assert found == text + "GRUB_ENABLE_CRYPTODISK=y\n"


def test_default_grub_of_red_hat_names_what_root_stands_on() -> None:
    text = (
        'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX="crashkernel=auto rd.lvm.lv=centos/root '
        'rd.lvm.lv=centos/swap rhgb quiet"\nGRUB_DISABLE_RECOVERY="true"\n'
    )
    wanted = root_arguments(mirror(), dracut=True)
    found = rewrite_default_grub(text, wanted, dracut=True, boot_is_encrypted=False)
    assert f'GRUB_CMDLINE_LINUX="crashkernel=auto rhgb quiet rd.md.uuid={MD}"\n' in found
    assert found.splitlines()[0] == "GRUB_TIMEOUT=5"
    assert "root=" not in found


def test_entries_of_the_boot_loader_specification_follow() -> None:
    entry = (
        "title Rocky Linux (5.14.0-362) 9.3 (Blue Onyx)\n"
        "linux /vmlinuz-5.14.0-362\ninitrd /initramfs-5.14.0-362.img $tuned_initrd\n"
        "options root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root $tuned_params\n"
        "grub_arg --unrestricted\n"
    )
    wanted = root_arguments(mirror(), dracut=True)
    found = rewrite_bls(entry, wanted).splitlines()
    assert found[3] == f"options root=UUID={NEW} ro $tuned_params rd.md.uuid={MD}"
    assert found[:3] == entry.splitlines()[:3]
    older = "options $kernelopts $tuned_params\n"
    assert rewrite_bls(older, wanted) == older


def test_the_environment_of_grub_keeps_its_size() -> None:
    text = "# GRUB Environment Block\nsaved_entry=abc\nkernelopts=root=/dev/sda2 ro quiet \n"
    text += "#" * (1024 - len(text))
    found = rewrite_grubenv(text, root_arguments(mirror(), dracut=True))
    assert len(found) == 1024
    assert f"kernelopts=root=UUID={NEW} ro quiet rd.md.uuid={MD} \n#" in found
    with pytest.raises(ValueError, match="do not fit"):
        rewrite_grubenv(text.replace("quiet", "x" * 1000), root_arguments(mirror(), dracut=True))


def test_a_menu_that_is_not_made_anew_follows() -> None:
    text = (
        f"search --no-floppy --fs-uuid --set=root {OLD}\n"
        f"\tlinux\t/boot/vmlinuz-6.1.0-18-amd64 root=UUID={OLD} ro  quiet\n"
    )
    found = rewrite_grub_cfg(text, root_arguments(mirror(), dracut=False), single(), mirror())
    assert found == (
        f"search --no-floppy --fs-uuid --set=root {NEW}\n"
        f"\tlinux\t/boot/vmlinuz-6.1.0-18-amd64 root=UUID={NEW} ro quiet\n"
    )


def test_the_initramfs_looks_for_a_hibernated_system_where_swap_is() -> None:
    assert render_resume(on_lvm(ext())) == f"RESUME=UUID={NEW}\n"
    assert render_resume(mirror()) == "RESUME=none\n"
