"""What a flow has to prove, and how each thing is proven from disks and blobs."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from tests.harness.ext4 import Ext4
from tests.harness.treedigest import root_partition

PROOFS = {
    "canary-set": "before: the deleted file's bytes are still on the source disk",
    "source-untouched": "the capture left every byte of the source disk as it was",
    "template-listed": "the template is in the store",
    "canary-absent": "the deleted file's bytes are in no blob of the store",
    "own-reboot": "the target ended its deployment by a reset of its own",
    "tree-equal": "every file, owner, mode, xattr, ACL and hard link is the source's",
    "root-grown": "the root filesystem has the whole of the bigger disk",
    "from-disk": "with the network first in its boot order, it came up from its disk",
    "login": "root logs in by SSH with the key of the job",
    "hostname": "it has its own hostname",
    "machine-id": "it has its own machine-id",
    "host-keys": "it has its own SSH host keys",
    "network": "it has the network of the job",
    "kernel-view": "its kernel sees the xattrs, ACLs, capabilities, hard links and holes",
    "healthy": "no unit of it failed",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether one of PROOFS holds, and what was seen."""

    name: str
    holds: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Person:
    """What makes a server itself, read from its disk."""

    hostname: str
    machine_id: str
    host_keys: frozenset[str]


def person_on(disk: Path) -> Person:
    """Return whose system is on `disk`."""
    filesystem = Ext4(disk, root_partition(disk).offset)
    try:
        return Person(
            hostname=_text(filesystem, "/etc/hostname").strip(),
            machine_id=_text(filesystem, "/etc/machine-id").strip(),
            host_keys=frozenset(
                _text(filesystem, f"/etc/ssh/ssh_host_{kind}_key.pub").split()[1]
                for kind in ("rsa", "ecdsa", "ed25519")
                if filesystem.find(f"/etc/ssh/ssh_host_{kind}_key.pub")
            ),
        )
    finally:
        filesystem.close()


def _text(filesystem: Ext4, path: str) -> str:
    inode = filesystem.find(path)
    return b"".join(filesystem.read(inode)).decode() if inode else ""


def root_sizes(disk: Path) -> tuple[int, int, int]:
    """Return the bytes of the disk, of the root's partition and of the root's filesystem."""
    part = root_partition(disk)
    filesystem = Ext4(disk, part.offset)
    filesystem.close()
    return disk.stat().st_size, part.size_bytes, filesystem.size_bytes


def blob_with(blobs: Iterable[Path], needle: bytes) -> Path | None:
    """Return the first blob that holds `needle`, as it is stored or when it is decompressed."""
    for blob in blobs:
        with blob.open("rb") as file:
            packed = file.read(4) == b"\x28\xb5\x2f\xfd"
            file.seek(0)
            if _holds(_pieces(file), needle):
                return blob
            if packed:
                file.seek(0)
                reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                if _holds(_pieces(reader), needle):
                    return blob
    return None


def _pieces(reader: BinaryIO) -> Iterator[bytes]:
    while data := reader.read(1 << 20):
        yield data


def _holds(pieces: Iterable[bytes], needle: bytes) -> bool:
    carried = b""
    for piece in pieces:
        carried += piece
        if needle in carried:
            return True
        carried = carried[-len(needle) :]
    return False


# Run in the guest: what its kernel says of the files that a copy most easily spoils.
KERNEL_VIEW = """cd /srv/lived-in
getfattr --absolute-names -n user.comment --only-values attributes/user; echo
getcap attributes/capable
getfacl -cn attributes/acl | tr '\\n' ' '; echo
stat -c 'links %h' links/first
stat -c 'holes %s %b' sparse/holes
stat -c 'mode %a' modes/4755 modes/6711
lsattr attributes/immutable
stat -c 'node %t:%T' special/disk
"""
_EXPECTED = (
    r"a note",
    r"attributes/capable cap_net_bind_service,cap_net_raw=ep",
    r"user::rw- user:4242:rw- group::r-- group:4243:r-- mask::rw- other::r--",
    r"links 3",
    r"holes 1073741824 \d{1,4}",
    r"mode 4755",
    r"mode 6711",
    r"----i\S* attributes/immutable",
    r"node 103:12c",
)


def kernel_view_faults(said: str) -> list[str]:
    """Return what is missing in the output of KERNEL_VIEW."""
    lines = [line.strip() for line in said.splitlines()]
    return [wanted for wanted in _EXPECTED if not any(re.fullmatch(wanted, line) for line in lines)]
