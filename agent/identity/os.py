"""What an operating system is, by its own files: read only, nothing of it is run."""

import re
import shlex
from typing import Final

from agent.identity.boot.tools import find_tools
from agent.model.template import NetworkStack, OsIdentity
from agent.system.rooted import RootedTree

_OS_RELEASE: Final = ("/etc/os-release", "/usr/lib/os-release")
_OLD_RELEASE: Final = ("/etc/centos-release", "/etc/redhat-release")
_OLD = re.compile(r"(?P<name>.+?) (?:Linux )?release (?P<version>[\d.]+)")
_KERNEL = "/boot/vmlinuz-"


def identify_os(tree: RootedTree) -> OsIdentity | None:
    """Return what the system in `tree` says it is, None if it says nothing."""
    named = _named(tree)
    if named is None:
        return None
    os_id, version, pretty = named
    return OsIdentity(
        id=os_id,
        version=version,
        pretty_name=pretty,
        kernel=find_kernel(tree),
        bootloader=find_bootloader(tree),
        initramfs_tool=find_initramfs_tool(tree),
        network_stack=find_network_stack(tree, os_id, version),
        tools=find_tools(tree),
    )


def parse_os_release(text: str) -> dict[str, str]:
    """Return the assignments of an os-release file; a line that is none is passed over."""
    found = {}
    for line in text.splitlines():
        key, sign, value = line.strip().partition("=")
        if not sign or not re.fullmatch(r"[A-Z0-9_]+", key):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        found[key] = words[0] if words else ""
    return found


def _named(tree: RootedTree) -> tuple[str, str, str] | None:
    for path in _OS_RELEASE:
        if text := tree.read_text(path):
            said = parse_os_release(text)
            version = said.get("VERSION_ID", "")
            return (
                said.get("ID", "linux"),
                version,
                said.get("PRETTY_NAME") or f"{said.get('NAME', 'Linux')} {version}".strip(),
            )
    for path in _OLD_RELEASE:
        if (text := tree.read_text(path)) and (found := _OLD.match(text)):
            word = found["name"].split()[0].lower()
            return "rhel" if word == "red" else word, found["version"], text.strip()
    return None


def find_kernel(tree: RootedTree) -> str | None:
    """Return the version of the newest kernel in /boot."""
    versions = [path.removeprefix(_KERNEL) for path in tree.glob(f"{_KERNEL}*")]
    versions = [version for version in versions if "rescue" not in version]
    return max(versions, key=_version_key, default=None)


def find_bootloader(tree: RootedTree) -> str | None:
    if any(tree.glob(pattern) for pattern in ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")):
        return "grub2"
    if tree.exists("/boot/grub/stage2") or tree.glob("/boot/grub/*.lst"):
        return "grub-legacy"
    if tree.exists("/etc/kernel/install.conf") or tree.exists("/boot/loader/loader.conf"):
        return "systemd-boot"
    if tree.exists("/boot/extlinux") or tree.exists("/boot/syslinux"):
        return "extlinux"
    return None


def find_initramfs_tool(tree: RootedTree) -> str | None:
    for name, words in (
        ("initramfs-tools", ("/usr/sbin/update-initramfs",)),
        ("dracut", ("/usr/bin/dracut", "/sbin/dracut", "/usr/sbin/dracut")),
        ("mkinitcpio", ("/usr/bin/mkinitcpio",)),
    ):
        if any(tree.exists(word) for word in words):
            return name
    return None


def find_network_stack(tree: RootedTree, os_id: str, version: str) -> NetworkStack | None:
    """Return what really configures the network: what is enabled and has something to say.

    A file left behind by a stack that is not installed says nothing; a stack that is installed
    and has no configuration is only the last guess.
    """
    netplan = tree.exists("/usr/sbin/netplan") or tree.exists("/lib/netplan/generate")
    netplan = netplan or tree.exists("/usr/libexec/netplan/generate")
    ifupdown = tree.exists("/sbin/ifup") and tree.exists("/etc/network")
    if netplan and (tree.glob("/etc/netplan/*.yaml") or tree.glob("/lib/netplan/*.yaml")):
        return NetworkStack.NETPLAN
    if ifupdown and _has_interfaces(tree) and not _masked(tree, "networking.service"):
        return NetworkStack.IFUPDOWN
    ifcfg = _ifcfg(tree)
    if _enabled(tree, "NetworkManager.service"):
        keyfiles = tree.glob("/etc/NetworkManager/system-connections/*")
        reads_ifcfg = tree.exists("/etc/sysconfig/network-scripts") and _major(version) < 9
        if reads_ifcfg and (ifcfg or not keyfiles) and os_id != "debian":
            return NetworkStack.IFCFG
        return NetworkStack.NETWORK_MANAGER
    if _enabled(tree, "systemd-networkd.service"):
        return NetworkStack.NETWORKD
    if ifcfg:
        return NetworkStack.IFCFG
    if netplan:
        return NetworkStack.NETPLAN
    if ifupdown:
        return NetworkStack.IFUPDOWN
    return None


def _has_interfaces(tree: RootedTree) -> bool:
    """Return whether ifupdown's files name an interface other than the loopback."""
    paths = ["/etc/network/interfaces", *tree.glob("/etc/network/interfaces.d/*")]
    for path in paths:
        for line in (tree.read_text(path) or "").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "iface" and words[1] != "lo":
                return True
    return False


def _ifcfg(tree: RootedTree) -> tuple[str, ...]:
    found = tree.glob("/etc/sysconfig/network-scripts/ifcfg-*")
    return tuple(path for path in found if not path.endswith("/ifcfg-lo"))


def _enabled(tree: RootedTree, unit: str) -> bool:
    """Return whether a target wants `unit`, by the links that systemctl enable makes."""
    if _masked(tree, unit):
        return False
    return bool(tree.glob(f"/etc/systemd/system/*.wants/{unit}"))


def _masked(tree: RootedTree, unit: str) -> bool:
    return tree.read_link(f"/etc/systemd/system/{unit}") == "/dev/null"


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def _version_key(version: str) -> list[tuple[int, int | str]]:
    """Return a key that orders 5.10 behind 5.9."""
    words = re.findall(r"\d+|[^\d]+", version)
    return [(1, int(word)) if word.isdigit() else (0, word) for word in words]
