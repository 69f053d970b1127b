"""SSH: the host's own keys, and who may log in as root."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.identity.values import Context, Deed, Touched
from agent.system.rooted import RootedTree

AUTHORIZED_KEYS: Final = "authorized keys"
HOST_KEYS: Final = ("/etc/ssh/ssh_host_*key", "/etc/ssh/ssh_host_*key.pub")
_ITEM: Final = "SSH host keys"
_MAKEABLE: Final = {"rsa": ("-b", "3072"), "ecdsa": (), "ed25519": ()}
_KEY_NAME = re.compile(r"/etc/ssh/ssh_host_(\w+)_key")


def set_host_keys(context: Context) -> Iterator[Touched]:
    """New keys of the kinds that were there, made by *our* ssh-keygen, never by the template's.

    Kinds that nobody makes any more (dsa, protocol 1) go without a successor.
    """
    tree = context.tree
    old = [path for pattern in HOST_KEYS for path in tree.glob(pattern)]
    if not old and not tree.exists("/etc/ssh/sshd_config"):
        return
    found = {match[1] for path in old if (match := _KEY_NAME.fullmatch(path))}
    kinds = [kind for kind in _MAKEABLE if kind in found] or list(_MAKEABLE)
    comment = f"root@{(context.identity.hostname or 'localhost').split('.')[0]}"
    written = set()
    with tempfile.TemporaryDirectory(prefix="metalcast-keys-") as place:
        for kind in kinds:
            made = Path(place) / kind
            size = _MAKEABLE[kind]
            context.run(
                ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", comment, "-f", made]
            )
            path = f"/etc/ssh/ssh_host_{kind}_key"
            # written over the old file, not removed first: that keeps its SELinux label
            tree.write(path, made.read_bytes(), mode=0o600)
            tree.write(f"{path}.pub", made.with_suffix(".pub").read_bytes(), mode=0o644)
            for name in (path, f"{path}.pub"):
                written.add(name)
                yield Touched(name, Deed.WRITTEN, _ITEM)
    for path in old:
        if path not in written and tree.remove(path):
            yield Touched(path, Deed.REMOVED, _ITEM)


def set_authorized_keys(context: Context) -> Iterator[Touched]:
    """Root's keys as the job names them, in place of the template's; none named: unchanged."""
    keys = context.identity.authorized_keys
    if not keys:
        return
    home = find_home(context.tree, "root")
    context.tree.make_directories(f"{home}/.ssh", mode=0o700)
    context.tree.change_mode(f"{home}/.ssh", 0o700)
    path = f"{home}/.ssh/authorized_keys"
    context.tree.write(path, "".join(f"{key}\n" for key in keys), mode=0o600)
    yield Touched(path, Deed.WRITTEN, AUTHORIZED_KEYS)
    second = f"{home}/.ssh/authorized_keys2"
    if context.tree.remove(second):
        yield Touched(second, Deed.REMOVED, AUTHORIZED_KEYS)


def find_home(tree: RootedTree, user: str) -> str:
    """Return a user's home by the system's own passwd; `/root` if that does not say."""
    for line in (tree.read_text("/etc/passwd") or "").splitlines():
        fields = line.split(":")
        if fields[0] == user and len(fields) >= 6 and re.fullmatch(r"(/[\w.-]+)+", fields[5]):
            return fields[5]
    return "/root"
