"""The declared set of what makes a system one machine's own.

Each row has a name, the files that it is about, and what is done with them at a deployment. Rows
that are private also say what a capture leaves out. To make something else a machine's own, add a
row.
"""

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from agent.errors import AgentError
from agent.identity.ssh import AUTHORIZED_KEYS, HOST_KEYS, set_authorized_keys, set_host_keys
from agent.identity.values import Context, Deed, Touched

_SEED_BYTES: Final = 512
_HOSTS: Final = "/etc/hosts"
_MACHINE_ID: Final = "/etc/machine-id"
_DBUS_ID: Final = "/var/lib/dbus/machine-id"
_SYSCONFIG: Final = "/etc/sysconfig/network"
_CLOUD: Final = "/etc/cloud/cloud.cfg.d/99-metalcast.cfg"
_CLOUD_TEXT: Final = """\
# Written by Metalcast: name and keys of this machine are set already.
preserve_hostname: true
ssh_deletekeys: false
"""

SEEDS: Final = (
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/misc/random-seed",
    "/var/lib/random-seed",
)
LEASES: Final = (
    "/var/lib/dhcp/*.leases",
    "/var/lib/dhcp/*.lease",
    "/var/lib/dhclient/*.leases",
    "/var/lib/dhclient/*.lease",
    "/var/lib/dhcpcd/*.lease",
    "/var/lib/dhcpcd/*.lease6",
    "/var/lib/dhcpcd/duid",
    "/var/lib/dhcpcd/secret",
    "/etc/dhcpcd.duid",
    "/etc/dhcpcd.secret",
    "/var/lib/NetworkManager/*.lease",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/NetworkManager/timestamps",
    "/var/lib/NetworkManager/seen-bssids",
    "/var/lib/systemd/network/*",
)
PERSISTENT_RULES: Final = (
    "/etc/udev/rules.d/*persistent-net*.rules",
    "/etc/udev/rules.d/*persistent-cd*.rules",
)
SECRETS: Final = ("/var/lib/systemd/credential.secret",)
CLOUD_STATE: Final = (
    "/var/lib/cloud/instances",
    "/var/lib/cloud/data",
    "/var/lib/cloud/sem",
)


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    apply: Callable[[Context], Iterator[Touched]]
    redacted: tuple[str, ...] = ()
    """What a capture leaves out: patterns, as `RootedTree.glob` takes them."""
    redacted_trees: tuple[str, ...] = ()


def set_hostname(context: Context) -> Iterator[Touched]:
    """The name as the family writes it: whole on Red Hat's, the first label elsewhere."""
    name = context.identity.hostname
    if name is None:
        return
    tree = context.tree
    short = name.split(".")[0]
    whole = tree.exists("/etc/redhat-release")
    old_style = tree.read_text(_SYSCONFIG)
    if old_style is not None and "HOSTNAME=" in old_style:
        changed = re.sub(r"(?m)^HOSTNAME=.*$", f"HOSTNAME={name}", old_style)
        tree.write(_SYSCONFIG, changed)
        yield Touched(_SYSCONFIG, Deed.WRITTEN, "hostname")
    if tree.exists("/etc/hostname") or old_style is None or "HOSTNAME=" not in old_style:
        tree.write("/etc/hostname", f"{name if whole else short}\n")
        yield Touched("/etc/hostname", Deed.WRITTEN, "hostname")
    tree.write(_HOSTS, render_hosts(tree.read_text(_HOSTS) or "127.0.0.1\tlocalhost\n", name))
    yield Touched(_HOSTS, Deed.WRITTEN, "hostname")


def render_hosts(text: str, name: str) -> str:
    """Return `text` with one line for 127.0.1.1 that has `name`, behind that of 127.0.0.1."""
    short = name.split(".")[0]
    ours = f"127.0.1.1\t{name}" + (f" {short}" if short != name else "")
    lines = [line for line in text.splitlines() if not re.match(r"\s*127\.0\.1\.1\s", line)]
    at = 0
    for number, line in enumerate(lines, start=1):
        if re.match(r"\s*127\.0\.0\.1\s", line):
            at = number
    return "\n".join([*lines[:at], ours, *lines[at:]]) + "\n"


def set_machine_id(context: Context) -> Iterator[Touched]:
    """A new one. D-Bus's copy only where it is a file of its own: a link follows by itself."""
    value = context.random(16)
    text = uuid.UUID(bytes=value, version=4).hex + "\n"
    tree = context.tree
    if tree.exists(_MACHINE_ID) or tree.exists("/etc/systemd"):
        tree.write(_MACHINE_ID, text, mode=0o444)
        yield Touched(_MACHINE_ID, Deed.WRITTEN, "machine id")
    if tree.kind(_DBUS_ID) == "file":
        tree.write(_DBUS_ID, text)
        yield Touched(_DBUS_ID, Deed.WRITTEN, "machine id")


def set_seeds(context: Context) -> Iterator[Touched]:
    """Fresh bytes where the system keeps a seed. Two machines with one seed make equal keys."""
    for path in SEEDS:
        if context.tree.kind(path) == "file":
            context.tree.write(path, context.random(_SEED_BYTES), mode=0o600)
            yield Touched(path, Deed.WRITTEN, "random seed")


def set_storage_names(context: Context) -> Iterator[Touched]:
    """The names by which iSCSI and NVMe targets know their initiator."""
    tree = context.tree
    path = "/etc/iscsi/initiatorname.iscsi"
    text = tree.read_text(path)
    if text and (found := re.search(r"(?m)^InitiatorName=(iqn\.[\w.-]+)", text)):
        name = f"InitiatorName={found[1]}:01:{context.random(6).hex()}"
        tree.write(path, re.sub(r"(?m)^InitiatorName=.*$", name, text))
        yield Touched(path, Deed.WRITTEN, "storage names")
    host = str(uuid.UUID(bytes=context.random(16), version=4))
    for path, line in (
        ("/etc/nvme/hostnqn", f"nqn.2014-08.org.nvmexpress:uuid:{host}\n"),
        ("/etc/nvme/hostid", f"{host}\n"),
    ):
        if tree.kind(path) == "file":
            tree.write(path, line)
            yield Touched(path, Deed.WRITTEN, "storage names")


def forget(name: str, patterns: tuple[str, ...]) -> Callable[[Context], Iterator[Touched]]:
    """Return a row's action that removes what matches `patterns`."""

    def action(context: Context) -> Iterator[Touched]:
        for pattern in patterns:
            for path in context.tree.glob(pattern):
                if context.tree.remove(path):
                    yield Touched(path, Deed.REMOVED, name)

    return action


def forget_cloud(context: Context) -> Iterator[Touched]:
    """cloud-init begins anew, and leaves alone what is set already."""
    tree = context.tree
    for top in CLOUD_STATE:
        for path in tree.remove_tree(top):
            yield Touched(path, Deed.REMOVED, "cloud-init state")
    if tree.kind("/var/lib/cloud/instance") == "link" and tree.remove("/var/lib/cloud/instance"):
        yield Touched("/var/lib/cloud/instance", Deed.REMOVED, "cloud-init state")
    if tree.exists("/etc/cloud/cloud.cfg"):
        tree.write(_CLOUD, _CLOUD_TEXT)
        yield Touched(_CLOUD, Deed.WRITTEN, "cloud-init state")


def set_network(context: Context) -> Iterator[Touched]:
    """The rendered files; those that would contradict them go first.

    Raises AgentError if the system lacks what the files need: it would boot without a network.
    """
    tree, network = context.tree, context.network
    if missing := [why for path, why in network.needs if not tree.exists(path)]:
        raise AgentError(f"the network cannot be as asked: {'; '.join(missing)}")
    stale = sorted({path for pattern in network.stale for path in tree.glob(pattern)})
    for path in stale:
        if path not in network.files and path not in network.kept and tree.remove(path):
            yield Touched(path, Deed.REMOVED, "network")
    for path, file in network.files.items():
        if file.only_if is not None and not tree.exists(file.only_if):
            continue
        if file.keep_link and tree.kind(path) == "link":
            continue
        tree.write(path, file.text, mode=file.mode)
        yield Touched(path, Deed.WRITTEN, "network")


TABLE: Final = (
    Row("hostname", set_hostname),
    Row("machine id", set_machine_id, (_MACHINE_ID, _DBUS_ID)),
    Row("SSH host keys", set_host_keys, HOST_KEYS),
    Row(AUTHORIZED_KEYS, set_authorized_keys),
    Row("random seed", set_seeds, SEEDS),
    Row("credential secret", forget("credential secret", SECRETS), SECRETS),
    Row("storage names", set_storage_names),
    Row("DHCP leases and ids", forget("DHCP leases and ids", LEASES), LEASES),
    Row("persistent device names", forget("persistent device names", PERSISTENT_RULES)),
    Row("cloud-init state", forget_cloud, redacted_trees=CLOUD_STATE),
    Row("network", set_network),
)
