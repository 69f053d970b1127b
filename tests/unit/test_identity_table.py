"""What makes a system one machine's own: each row of the table, on trees of files."""

import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.identity.configure import NetworkFiles, configure, redaction_paths
from agent.identity.table import TABLE, render_hosts
from agent.identity.values import Deed, Touched
from agent.model.job import Identity
from agent.model.template import NetworkStack
from agent.network.tree import File, RenderedTree
from agent.system.command import DEFAULT_TIMEOUT_S, Output, Word
from agent.system.rooted import RootedTree
from tests.unit.make_tree import make_listed_tree

KEY = "ssh-ed25519 " + "A" * 68 + " ada@example"
DEBIAN = """
/etc/os-release: ID=debian\\n
/etc/systemd/system.conf
/etc/hostname: golden\\n
/etc/hosts: 127.0.0.1\\tlocalhost\\n127.0.1.1\\tgolden.old golden\\n::1 localhost\\n
/etc/machine-id: 00000000000000000000000000000001\\n
/var/lib/dbus/machine-id -> /etc/machine-id
/etc/passwd: root:x:0:0:root:/root:/bin/bash\\n
/root/.ssh/authorized_keys: old\\n
/etc/ssh/sshd_config
/etc/ssh/ssh_host_rsa_key: OLD\\n
/etc/ssh/ssh_host_rsa_key.pub: old\\n
/etc/ssh/ssh_host_dsa_key: OLD\\n
/etc/ssh/ssh_host_dsa_key.pub: old\\n
/var/lib/systemd/random-seed: seed
/var/lib/systemd/credential.secret: secret
/var/lib/dhcp/dhclient.ens3.leases: lease
/var/lib/NetworkManager/secret_key: x
/var/lib/systemd/network/lease
/etc/udev/rules.d/70-persistent-net.rules: rule
/etc/udev/rules.d/60-mine.rules: rule
/etc/cloud/cloud.cfg: cfg
/var/lib/cloud/instances/i-1/user-data.txt: secret
/var/lib/cloud/instance -> instances/i-1
/etc/iscsi/initiatorname.iscsi: ## doc\\nInitiatorName=iqn.1993-08.org.debian:01:aaaaaaaaaaaa\\n
/etc/nvme/hostnqn: nqn.2014-08.org.nvmexpress:uuid:1\\n
/etc/nvme/hostid: 1\\n
/etc/network/interfaces: auto ens3\\n
/etc/network/interfaces.d/old: iface ens3\\n
"""


class FakeKeygen:
    """ssh-keygen that makes files; any other program is a mistake."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def __call__(
        self,
        words: Sequence[Word],
        *,
        stdin: str | bytes | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        ok: Collection[int] = (0,),
        env: Mapping[str, str] | None = None,
        into: Callable[[bytes], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Output:
        plain = [str(word) for word in words]
        assert plain[0] == "ssh-keygen"
        kind, file = plain[plain.index("-t") + 1], Path(plain[plain.index("-f") + 1])
        self.kinds.append(kind)
        file.write_text(f"NEW {kind}\n")
        file.with_suffix(".pub").write_text(f"new {kind}\n")
        return Output(b"", "", 0)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    make_listed_tree(tmp_path, DEBIAN)
    return tmp_path


@pytest.fixture
def tree(top: Path) -> Iterator[RootedTree]:
    with RootedTree(top) as tree:
        yield tree


def apply(
    tree: RootedTree, identity: Identity | None = None, network: NetworkFiles | None = None
) -> tuple[Touched, ...]:
    return configure(
        FakeKeygen(),
        tree,
        identity or Identity(hostname="web1.example", authorized_keys=(KEY,)),
        network or NetworkFiles(),
    )


def mode(top: Path, path: str) -> int:
    return stat.S_IMODE((top / path).stat().st_mode)


def test_the_name_is_written_where_it_is_read(tree: RootedTree) -> None:
    apply(tree)
    assert tree.read_text("/etc/hostname") == "web1\n"
    assert tree.read_text("/etc/hosts") == (
        "127.0.0.1\tlocalhost\n127.0.1.1\tweb1.example web1\n::1 localhost\n"
    )


def test_red_hat_keeps_the_whole_name(top: Path, tree: RootedTree) -> None:
    (top / "etc/redhat-release").write_text("Red Hat Enterprise Linux release 9.4\n")
    apply(tree)
    assert tree.read_text("/etc/hostname") == "web1.example\n"


def test_centos_6_has_its_name_in_sysconfig(top: Path, tree: RootedTree) -> None:
    (top / "etc/sysconfig").mkdir()
    (top / "etc/sysconfig/network").write_text("NETWORKING=yes\nHOSTNAME=golden\n")
    (top / "etc/hostname").unlink()
    apply(tree)
    assert tree.read_text("/etc/sysconfig/network") == "NETWORKING=yes\nHOSTNAME=web1.example\n"
    assert tree.read("/etc/hostname") is None


def test_without_a_name_the_name_stays(tree: RootedTree) -> None:
    apply(tree, Identity())
    assert tree.read_text("/etc/hostname") == "golden\n"
    assert tree.read_text("/root/.ssh/authorized_keys") == "old\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "127.0.1.1\tweb1\n"),
        ("127.0.0.1 localhost\n", "127.0.0.1 localhost\n127.0.1.1\tweb1\n"),
        ("127.0.1.1 a\n127.0.1.1 b\n", "127.0.1.1\tweb1\n"),
        ("# 127.0.1.1 a\n", "127.0.1.1\tweb1\n# 127.0.1.1 a\n"),
    ],
)
def test_hosts_has_one_line_of_ours(text: str, expected: str) -> None:
    assert render_hosts(text, "web1") == expected
    assert render_hosts(expected, "web1") == expected


def test_every_machine_gets_a_machine_id_of_its_own(top: Path, tree: RootedTree) -> None:
    apply(tree)
    first = tree.read_text("/etc/machine-id")
    apply(tree)
    second = tree.read_text("/etc/machine-id")
    assert first != second
    assert first is not None
    assert len(first) == 33
    assert first[12] == "4"
    assert mode(top, "etc/machine-id") == 0o444
    assert (top / "var/lib/dbus/machine-id").is_symlink()


def test_dbus_has_a_copy_only_if_it_had_a_file(top: Path, tree: RootedTree) -> None:
    (top / "var/lib/dbus/machine-id").unlink()
    (top / "var/lib/dbus/machine-id").write_text("old\n")
    apply(tree)
    assert tree.read("/var/lib/dbus/machine-id") == tree.read("/etc/machine-id")


def test_host_keys_of_the_same_kinds_are_made_anew(top: Path, tree: RootedTree) -> None:
    touched = apply(tree)
    assert tree.read_text("/etc/ssh/ssh_host_rsa_key") == "NEW rsa\n"
    assert (mode(top, "etc/ssh/ssh_host_rsa_key"), mode(top, "etc/ssh/ssh_host_rsa_key.pub")) == (
        0o600,
        0o644,
    )
    assert tree.glob("/etc/ssh/ssh_host_*") == (
        "/etc/ssh/ssh_host_rsa_key",
        "/etc/ssh/ssh_host_rsa_key.pub",
    )
    gone = {one.path for one in touched if one.deed is Deed.REMOVED}
    assert {"/etc/ssh/ssh_host_dsa_key", "/etc/ssh/ssh_host_dsa_key.pub"} <= gone


def test_a_server_without_keys_gets_all_kinds(top: Path, tree: RootedTree) -> None:
    for path in (top / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    apply(tree)
    assert len(tree.glob("/etc/ssh/ssh_host_*_key")) == 3


def test_a_system_without_a_server_gets_no_keys(tmp_path: Path) -> None:
    make_listed_tree(tmp_path, "/etc/hostname: x\\n")
    with RootedTree(tmp_path) as bare:
        apply(bare, Identity())
        assert bare.kind("/etc/ssh") is None


def test_root_is_entered_by_the_keys_of_the_job_alone(top: Path, tree: RootedTree) -> None:
    (top / "root/.ssh/authorized_keys2").write_text("old\n")
    apply(tree)
    assert tree.read_text("/root/.ssh/authorized_keys") == KEY + "\n"
    assert (mode(top, "root/.ssh"), mode(top, "root/.ssh/authorized_keys")) == (0o700, 0o600)
    assert tree.read("/root/.ssh/authorized_keys2") is None


def test_what_is_one_machines_own_is_gone_or_new(tree: RootedTree) -> None:
    apply(tree)
    assert tree.read("/var/lib/systemd/random-seed") not in (b"seed", None)
    for path in (
        "/var/lib/systemd/credential.secret",
        "/var/lib/dhcp/dhclient.ens3.leases",
        "/var/lib/NetworkManager/secret_key",
        "/var/lib/systemd/network/lease",
        "/etc/udev/rules.d/70-persistent-net.rules",
        "/var/lib/cloud/instances/i-1/user-data.txt",
        "/var/lib/cloud/instance",
    ):
        assert tree.kind(path) is None, path
    assert tree.read("/etc/udev/rules.d/60-mine.rules") == b"rule"
    cloud = tree.read_text("/etc/cloud/cloud.cfg.d/99-metalcast.cfg") or ""
    assert "preserve_hostname: true" in cloud
    iscsi = tree.read_text("/etc/iscsi/initiatorname.iscsi") or ""
    assert iscsi.startswith("## doc\nInitiatorName=iqn.1993-08.org.debian:01:")
    assert "aaaaaaaaaaaa" not in iscsi
    nqn, host = tree.read_text("/etc/nvme/hostnqn") or "", tree.read_text("/etc/nvme/hostid") or ""
    assert nqn == f"nqn.2014-08.org.nvmexpress:uuid:{host}"


def test_network_files_replace_those_that_would_contradict_them(tree: RootedTree) -> None:
    rendered = RenderedTree(
        files={
            "/etc/network/interfaces": File("auto lo\n"),
            "/etc/NetworkManager/x": File("secret", mode=0o600),
            "/etc/nowhere": File("x", only_if="/etc/does-not-exist"),
        }
    )
    touched = apply(tree, network=NetworkFiles.of(rendered, NetworkStack.IFUPDOWN))
    assert tree.read_text("/etc/network/interfaces") == "auto lo\n"
    assert tree.kind("/etc/network/interfaces.d/old") is None
    assert tree.kind("/etc/nowhere") is None
    network = [(one.path, one.deed) for one in touched if one.item == "network"]
    assert network == [
        ("/etc/network/interfaces.d/old", Deed.REMOVED),
        ("/etc/network/interfaces", Deed.WRITTEN),
        ("/etc/NetworkManager/x", Deed.WRITTEN),
    ]


def test_a_network_that_needs_what_the_system_lacks_is_an_error(tree: RootedTree) -> None:
    network = NetworkFiles(needs=(("/sbin/ifenslave", "bonds need ifenslave"),))
    with pytest.raises(AgentError, match="bonds need ifenslave"):
        apply(tree, network=network)


def test_a_capture_leaves_out_only_what_a_deployment_replaces(top: Path, tree: RootedTree) -> None:
    left_out = redaction_paths(tree)
    assert "/etc/ssh/ssh_host_rsa_key" in left_out
    assert "/var/lib/cloud/instances/i-1/user-data.txt" in left_out
    assert "/root/.ssh/authorized_keys" not in left_out
    for path in left_out:
        size = (top / path[1:]).stat().st_size
        (top / path[1:]).write_bytes(bytes(size))  # as a template has it
    touched = {one.path for one in apply(tree)}
    assert set(left_out) <= touched


def test_each_file_is_told_of_and_nothing_else_changes(top: Path, tree: RootedTree) -> None:
    def contents() -> dict[str, bytes]:
        files = (path for path in top.rglob("*") if path.is_file() and not path.is_symlink())
        return {f"/{path.relative_to(top)}": path.read_bytes() for path in files}

    before = contents()
    touched = {one.path for one in apply(tree)}
    after = contents()
    differing = {
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    }
    assert differing <= touched


def test_no_two_rows_have_one_name() -> None:
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
