"""A network of its own for DHCP: a bridge with us, a site's DHCP server and a client on it.

```text
  namespace us:     bridge 10.77.0.1 ── our dnsmasq, an HTTP server that notes what is fetched
  namespace site:   eth0 10.77.0.2 ── a plain dnsmasq that gives 10.77.0.100–150 (optional)
  namespace client: eth0 10.77.0.50 ── packets made by hand; or QEMU on a tap of the bridge
```
"""

import contextlib
import ctypes
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
US, SITE, CLIENT = "10.77.0.1", "10.77.0.2", "10.77.0.50"
PORT = 8470
MAC = bytes.fromhex("525400123456")
_COOKIE = bytes.fromhex("63825363")
_CLONE_NEWNET = 0x40000000


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Put this thread into a network namespace. Sockets made in the block stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert libc.setns(there, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert libc.setns(home, _CLONE_NEWNET) == 0
        os.close(home)
        os.close(there)


@dataclass
class Lab:
    """Three namespaces and what runs in them."""

    folder: Path
    tag: str = field(default_factory=lambda: f"mc{secrets.token_hex(3)}")
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def bridge(self) -> str:
        """Its name is nobody else's, for it also names a folder under /run."""
        return f"{self.tag}br"

    @property
    def run_folder(self) -> Path:
        return Path(f"/run/metalcast-{self.bridge}")

    @property
    def us(self) -> str:
        return f"{self.tag}us"

    @property
    def site(self) -> str:
        return f"{self.tag}site"

    @property
    def client(self) -> str:
        return f"{self.tag}client"

    def build(self) -> None:
        for namespace in (self.us, self.site, self.client):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", self.us, "link", "add", self.bridge, "type", "bridge")
        run("ip", "-n", self.us, "addr", "add", f"{US}/24", "dev", self.bridge)
        run("ip", "-n", self.us, "link", "set", self.bridge, "up")
        for namespace, address, port in ((self.site, SITE, "p1"), (self.client, CLIENT, "p2")):
            peer = ("peer", "name", "eth0", "netns", namespace)
            run("ip", "-n", self.us, "link", "add", port, "type", "veth", *peer)
            run("ip", "-n", self.us, "link", "set", port, "master", self.bridge, "up")
            run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", namespace, "link", "set", "eth0", "up")
        time.sleep(2.5)  # IPv6 addresses are tentative that long, and nobody advertises before

    def start(self, namespace: str, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.children.append(child)
        return child

    def start_site(self) -> None:
        """Start the site's DHCP server: addresses, and not a word about booting."""
        self.start(
            self.site,
            "site",
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--no-ping",
            "--interface=eth0",
            "--bind-interfaces",
            "--dhcp-range=10.77.0.100,10.77.0.150,255.255.255.0,10m",
            f"--dhcp-leasefile={self.folder / 'site.leases'}",
            "--log-dhcp",
            "--log-facility=-",
        )

    def start_us(self, mode: str) -> subprocess.Popen[bytes]:
        child = [sys.executable, "-m", "tests.loop.dhcp_child", mode, self.bridge, str(self.folder)]
        count = self.log("us").count("READY") + 1
        started = self.start(self.us, "us", *child)
        self.wait_for("us", "READY", count=count)
        return started

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, name: str, text: str, timeout_s: float = 15.0, count: int = 1) -> None:
        """Wait until a log has `text` that often."""
        deadline = time.monotonic() + timeout_s
        while self.log(name).count(text) < count:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.log(name)[-4000:]}"
            time.sleep(0.1)

    def end(self) -> None:
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for namespace in (self.us, self.site, self.client):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    made = Lab(folder)
    try:
        made.build()
        yield made
    finally:
        made.end()


@dataclass(frozen=True)
class Answer:
    """One DHCP answer, as far as booting is concerned."""

    server: str
    address: str
    next_server: str
    file: str
    options: dict[int, bytes]

    @property
    def vendor(self) -> str:
        return self.options.get(60, b"").decode()

    @property
    def boot_file(self) -> str:
        return self.options.get(67, b"").rstrip(b"\0").decode() or self.file


def make_packet(kind: int, options: dict[int, bytes], exchange: bytes) -> bytes:
    head = bytes([1, 1, 6, 0]) + exchange + struct.pack("!HH", 0, 0x8000) + bytes(16)
    body = head + MAC + bytes(10) + bytes(192) + _COOKIE
    for number, value in {53: bytes([kind]), **options}.items():
        body += bytes([number, len(value)]) + value
    return body + b"\xff"


def parse_packet(data: bytes, sender: str) -> Answer:
    options: dict[int, bytes] = {}
    at = 240
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return Answer(
        server=sender,
        address=socket.inet_ntoa(data[16:20]),
        next_server=socket.inet_ntoa(data[20:24]),
        file=data[108:236].split(b"\0")[0].decode(),
        options=options,
    )


def firmware(architecture: int) -> dict[int, bytes]:
    """Return the options that firmware of this DHCP architecture sends."""
    kind = "HTTPClient" if architecture == 16 else "PXEClient"
    return {
        55: bytes([1, 3, 6, 43, 60, 66, 67]),
        57: struct.pack("!H", 1472),
        60: f"{kind}:Arch:{architecture:05}:UNDI:003000".encode(),
        93: struct.pack("!H", architecture),
        94: bytes([1, 3, 16]),
        97: bytes(17),
    }


def ask(made: Lab, kind: int, options: dict[int, bytes], to: str, port: int) -> list[Answer]:
    """Send one packet from the client and return all that is answered within two seconds."""
    with inside(made.client), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        client.bind(("0.0.0.0", 68))
        exchange = secrets.token_bytes(4)
        packet = make_packet(kind, options, exchange)
        if port == 4011:
            packet = packet[:12] + socket.inet_aton(CLIENT) + packet[16:]
        client.sendto(packet, (to, port))
        answers: list[Answer] = []
        deadline = time.monotonic() + 2
        while (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            with contextlib.suppress(TimeoutError):
                data, (sender, _) = client.recvfrom(4096)
                if data[4:8] == exchange:
                    answers.append(parse_packet(data, sender))
        return answers


def discover(made: Lab, options: dict[int, bytes]) -> list[Answer]:
    return ask(made, 1, options, "255.255.255.255", 67)


def ask_proxy(made: Lab, options: dict[int, bytes]) -> list[Answer]:
    """Ask our boot server port, as PXE firmware does once it has an address.

    A BIOS names what it chose from the menu in the offer; UEFI is offered no menu.
    """
    if options[93] == bytes(2):
        options = {**options, 43: bytes([71, 4, 0x80, 0, 0, 0, 255])}  # the only entry
    return ask(made, 3, options, US, 4011)


def read_tftp(made: Lab, name: str) -> bytes | None:
    """Return a file that our TFTP server gives the client, None if it refuses."""
    with inside(made.client), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"\0\1" + name.encode() + b"\0octet\0", (US, 69))
        data = bytearray()
        while True:
            packet, peer = client.recvfrom(65536)
            kind, block = struct.unpack("!HH", packet[:4])
            if kind != 3:
                return None
            if block == len(data) // 512 + 1:
                data += packet[4:]
            client.sendto(struct.pack("!HH", 4, block), peer)
            if len(packet) < 516:
                return bytes(data)
