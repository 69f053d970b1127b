"""A switch's frame on a real (virtual) cable is heard."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

_FRAME = (
    "0180c200000e" "aabbccddeeff" "88cc"
    "0207" "04" "00163e112233"
    "0406" "05" "4574683137".ljust(10, "0")
    + "0602" "0078" "0a04" "6c656166" "0000"
)  # fmt: skip
_LISTEN = """
import json, sys
from agent.probe.lldp import listen_lldp
found = listen_lldp(["l0", "l1"], 4.0)
print(json.dumps({name: [n.chassis, n.port, n.system] for name, n in found.items()}))
"""
_SEND = """
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("far0", 0))
for _ in range(12):
    s.send(bytes(20)[:12] + b"\\x88\\xcc" + b"\\xff" * 40)  # noise of the same type
    s.send(bytes.fromhex(sys.argv[1]))
    time.sleep(0.2)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def namespace() -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    name = f"mcl{os.getpid()}"
    ip("netns", "add", name)
    try:
        for n in "01":
            ip("-n", name, "link", "add", f"l{n}", "type", "veth", "peer", "name", f"far{n}")
            ip("-n", name, "link", "set", f"l{n}", "up")
            ip("-n", name, "link", "set", f"far{n}", "up")
        yield name
    finally:
        ip("netns", "del", name)


def test_the_switch_is_heard_on_its_own_interface(namespace: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    inside = ["ip", "netns", "exec", namespace, sys.executable, "-c"]
    with subprocess.Popen([*inside, _SEND, _FRAME]) as sender:
        done = subprocess.run([*inside, _LISTEN], check=True, capture_output=True, env=env)
        sender.wait(10)
    assert json.loads(done.stdout) == {"l0": ["00:16:3e:11:22:33", "Eth17", "leaf"]}
