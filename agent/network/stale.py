"""Which files of the captured system configure a network that the target is not in."""

from fnmatch import fnmatchcase
from typing import Final

from agent.model.template import NetworkStack

LINKS: Final = ("/etc/systemd/network/*.link",)
NETWORKD: Final = ("/etc/systemd/network/*.network", "/etc/systemd/network/*.netdev")
NETPLAN: Final = ("/etc/netplan/*.yaml", "/etc/netplan/*.yml")
IFUPDOWN: Final = ("/etc/network/interfaces", "/etc/network/interfaces.d/*")
KEYFILES: Final = ("/etc/NetworkManager/system-connections/*",)
IFCFG: Final = (
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network-scripts/route-*",
    "/etc/sysconfig/network-scripts/route6-*",
    "/etc/sysconfig/network-scripts/rule-*",
    "/etc/sysconfig/network-scripts/rule6-*",
    "/etc/sysconfig/network-scripts/keys-*",
)
CLOUD_INIT: Final = ("/etc/cloud/cloud.cfg.d/50-curtin-networking.cfg",)
KEPT: Final = frozenset(
    {
        "/etc/sysconfig/network-scripts/ifcfg-lo",
        "/etc/systemd/network/99-default.link",
        "/etc/systemd/network/73-usb-net-by-mac.link",
    }
)
"""The loopback, and the administrator's choice of naming scheme."""

_BY_STACK: Final = {
    # netplan drives networkd or NetworkManager, whose own files would compete with it.
    NetworkStack.NETPLAN: (*NETPLAN, *NETWORKD, *KEYFILES),
    NetworkStack.IFUPDOWN: IFUPDOWN,
    NetworkStack.NETWORKD: NETWORKD,
    # NetworkManager reads ifcfg files as well, on RHEL 7 to 9.
    NetworkStack.NETWORK_MANAGER: (*KEYFILES, *IFCFG),
    NetworkStack.IFCFG: (*IFCFG, *KEYFILES),
}


def stale_paths(stack: NetworkStack) -> tuple[str, ...]:
    """Return the globs, absolute in the target root, of what to remove before writing.

    A path in `KEPT` stays although a glob names it: ask `is_stale`.
    """
    return (*_BY_STACK[stack], *LINKS, *CLOUD_INIT)


def is_stale(path: str, stack: NetworkStack) -> bool:
    """Whether `path`, absolute in the target root, has to go before the new files are written."""
    if path in KEPT:
        return False
    folder, _, name = path.rpartition("/")
    for glob in stale_paths(stack):
        glob_folder, _, pattern = glob.rpartition("/")
        if folder == glob_folder and fnmatchcase(name, pattern):
            return True
    return False
