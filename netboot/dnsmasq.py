"""dnsmasq beside the server: answers machines that boot, and hands them iPXE over TFTP.

`proxy` adds boot answers to a site's own DHCP server, which goes on giving the addresses; `full`
gives addresses too. Firmware gets iPXE; iPXE, known by its user class, gets our first script,
so nothing goes round in a circle.
"""

import asyncio
import contextlib
import fcntl
import ipaddress
import logging
import os
import re
import shutil
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Final

from agent.errors import AgentError, UsageError

LOG: Final = logging.getLogger("metalcast.dnsmasq")

BIOS_IPXE: Final = "undionly.kpxe"
UEFI_IPXE: Final = "snponly.efi"
"""Works through the firmware's own network driver, so on every card that can boot at all."""
IPXE_FOLDER: Final = Path("/usr/lib/ipxe")
RUN_FOLDER: Final = Path("/run")

_BIOS: Final = 0
_UEFI_X64: Final = (7, 9)
"""Both mean x64 UEFI: the RFC and its erratum disagree, and so do firmwares."""
_HTTP_X64: Final = 16
_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_URL: Final = re.compile(r"http://[a-z0-9.-]{1,253}(?::\d{1,5})?")
_PATH: Final = re.compile(r"/[A-Za-z0-9_./+@-]{1,500}")
_RANGE: Final = re.compile(r"([0-9.]{7,15})[,-]([0-9.]{7,15})(?:,(\d{1,4}[mh]))?")
_NEEDED: Final = {10: "CAP_NET_BIND_SERVICE", 12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW"}
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFNETMASK: Final = 0x891B
_BAD_NET: Final = 2
"""dnsmasq(8): the network could not be used as told, an address in use above all."""
_STEADY_S: Final = 10.0
_STOP_S: Final = 5.0
_START_S: Final = 0.5


class DhcpError(AgentError):
    """dnsmasq cannot be started, or has died."""


class DhcpMode(StrEnum):
    PROXY = "proxy"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class AddressRange:
    """What `full` gives out: `first` to `last`, both included."""

    first: IPv4Address
    last: IPv4Address
    lease: str = "1h"


@dataclass(frozen=True, slots=True)
class DhcpPlan:
    """All that dnsmasq is told. Checked when built: what is in here may be written down."""

    mode: DhcpMode
    interface: str
    address: IPv4Interface
    """Ours, on that interface."""
    url: str
    """How machines reach us: `http://10.0.0.5:8470`."""
    range: AddressRange | None = None
    router: IPv4Address | None = None
    """Whom `full` names as the way out; nobody by default."""

    def __post_init__(self) -> None:
        if not _INTERFACE.fullmatch(self.interface):
            raise UsageError(f"not the name of an interface: {self.interface[:40]!a}")
        if not _URL.fullmatch(self.url):
            raise UsageError(f"machines cannot boot from {self.url[:80]!a}: not http://HOST:PORT")
        if (self.mode is DhcpMode.FULL) != (self.range is not None):
            raise UsageError("--dhcp full and --dhcp-range FIRST,LAST belong together")
        if self.range is not None:
            self._check_range(self.range)

    def _check_range(self, given: AddressRange) -> None:
        network = self.address.network
        if given.first not in network or given.last not in network:
            raise UsageError(f"{given.first},{given.last} is not inside {network}")
        if given.first > given.last:
            raise UsageError(f"{given.first} comes after {given.last}")
        for taken in (self.address.ip, network.broadcast_address, network.network_address):
            if given.first <= taken <= given.last:
                raise UsageError(f"{taken} is not free, yet between {given.first} and {given.last}")


def parse_range(text: str) -> AddressRange:
    """Return what `FIRST,LAST` or `FIRST,LAST,12h` says. Raises UsageError."""
    found = _RANGE.fullmatch(text)
    try:
        if found:
            first, last = IPv4Address(found[1]), IPv4Address(found[2])
            return AddressRange(first, last, found[3] or "1h")
    except ipaddress.AddressValueError:
        pass
    raise UsageError(f"not a range of addresses: {text[:60]!a}", hint="write 10.0.0.100,10.0.0.200")


def plan_dhcp(
    mode: str, interface: str, port: int, *, range_text: str | None = None, url: str | None = None
) -> DhcpPlan:
    """Return the plan for this host; `port` is where our HTTP server listens.

    `url` is how machines reach us, if not by the interface's own address.
    Raises UsageError, or DhcpError when the interface is not there or has no IPv4 address.
    """
    if not _INTERFACE.fullmatch(interface):
        raise UsageError(f"not the name of an interface: {interface[:40]!a}")
    address = find_address(interface)
    return DhcpPlan(
        mode=DhcpMode(mode),
        interface=interface,
        address=address,
        url=url or f"http://{address.ip}:{port}",
        range=parse_range(range_text) if range_text else None,
    )


def find_address(interface: str) -> IPv4Interface:
    """Return the interface's first IPv4 address with its network. Raises DhcpError."""
    request = struct.pack("256s", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            address = fcntl.ioctl(control, _SIOCGIFADDR, request)[20:24]
            netmask = fcntl.ioctl(control, _SIOCGIFNETMASK, request)[20:24]
        except OSError as error:
            raise DhcpError(
                f"{interface} cannot serve DHCP: {error.strerror}",
                hint=f"ip -4 address show dev {interface}",
            ) from error
    return IPv4Interface(f"{socket.inet_ntoa(address)}/{socket.inet_ntoa(netmask)}")


def dnsmasq_config(plan: DhcpPlan, tftp: Path, leases: Path) -> str:
    """Return the whole dnsmasq.conf: nothing of the host's own configuration is read.

    Raises UsageError for a path that dnsmasq might read as something else.
    """
    for path in (tftp, leases):
        if not _PATH.fullmatch(str(path)):
            raise UsageError(f"dnsmasq cannot take this path: {str(path)!a}")
    script = f"{plan.url}/boot/boot.ipxe"
    http_boot = f"{plan.url}/boot/{UEFI_IPXE}"
    lines = [
        "# written by metalcast serve; changes are lost",
        "port=0",
        "no-hosts",
        "no-resolv",
        "no-ping",
        f"interface={plan.interface}",
        "except-interface=lo",
        "bind-interfaces",
        "log-dhcp",
        "log-facility=-",
        f"dhcp-leasefile={leases}",
        "enable-tftp",
        f"tftp-root={tftp}",
        # option 175 is iPXE's own; some builds send only the user class
        "dhcp-match=set:ipxe,175",
        "dhcp-userclass=set:ipxe,iPXE",
        f"dhcp-match=set:bios,option:client-arch,{_BIOS}",
        *(f"dhcp-match=set:uefi,option:client-arch,{number}" for number in _UEFI_X64),
        f"dhcp-match=set:http,option:client-arch,{_HTTP_X64}",
        "dhcp-vendorclass=set:http,HTTPClient",
        # iPXE looks at the name of a file only if the offer says which server has it
        f"dhcp-boot=tag:ipxe,{script},,{plan.address.ip}",
    ]
    if plan.mode is DhcpMode.PROXY:
        lines += _proxy_lines(plan, http_boot)
    else:
        lines += _full_lines(plan, http_boot)
    return "\n".join(lines) + "\n"


def _proxy_lines(plan: DhcpPlan, http_boot: str) -> list[str]:
    network = plan.address.network
    uefi = (f"pxe-service=tag:!ipxe,{number},Metalcast,{UEFI_IPXE}" for number in _UEFI_X64)
    return [
        f"dhcp-range={network.network_address},proxy,{network.netmask}",
        "dhcp-pxe-vendor=PXEClient,HTTPClient",
        f"pxe-service=tag:!ipxe,{_BIOS},Metalcast,{BIOS_IPXE}",
        *uefi,
        # firmware that boots over HTTP takes the URL from the offer and never asks port 4011
        f"dhcp-boot=tag:!ipxe,tag:http,{http_boot},,{plan.address.ip}",
    ]


def _full_lines(plan: DhcpPlan, http_boot: str) -> list[str]:
    given = plan.range
    assert given is not None
    netmask = plan.address.network.netmask
    return [
        f"dhcp-range={given.first},{given.last},{netmask},{given.lease}",
        "dhcp-authoritative",
        # an empty option keeps dnsmasq from naming itself as router and name server
        f"dhcp-option=option:router{f',{plan.router}' if plan.router else ''}",
        "dhcp-option=option:dns-server",
        f"dhcp-boot=tag:!ipxe,tag:bios,{BIOS_IPXE}",
        f"dhcp-boot=tag:!ipxe,tag:uefi,{UEFI_IPXE}",
        f"dhcp-boot=tag:!ipxe,tag:http,{http_boot}",
        "dhcp-option-force=tag:http,tag:!ipxe,option:vendor-class,HTTPClient",
        # iPXE waits 16 s for a router advertisement: one that offers nothing ends the wait
        "enable-ra",
        f"ra-param={plan.interface},60,0",
        "dhcp-range=fe80::,ra-only",
    ]


def copy_ipxe(source: Path, target: Path) -> None:
    """Put the two iPXE programs into the folder `target`. Raises DhcpError if one is missing."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (BIOS_IPXE, UEFI_IPXE):
        try:
            shutil.copyfile(source / name, target / name)
        except OSError as error:
            raise DhcpError(
                f"no iPXE to hand out: {source / name}: {error.strerror}",
                hint="apt-get install ipxe",
            ) from error
        (target / name).chmod(0o644)


def check_rights(status: str) -> None:
    """Raise DhcpError unless a process with this /proc/PID/status may do what dnsmasq does."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    held = int(found[1], 16) if found else 0
    if lacking := [name for bit, name in _NEEDED.items() if not held >> bit & 1]:
        raise DhcpError(
            f"--dhcp needs {', '.join(lacking)}: low ports and raw packets are not for everybody",
            hint="run serve as root, or leave --dhcp out and let the site's DHCP server name us",
        )


class Dnsmasq:
    """The child. `start`, then `watch` until it fails, then `stop`."""

    def __init__(
        self, plan: DhcpPlan, data: Path, *, folder: Path | None = None, ipxe: Path = IPXE_FOLDER
    ) -> None:
        """`data` keeps the leases; `folder` is for what only this run needs.

        As root that folder is under /run: dnsmasq gives up root, and the data directory may be
        closed to others.
        """
        self.plan = plan
        self._data = data
        ours = RUN_FOLDER / f"metalcast-{plan.interface}" if os.geteuid() == 0 else data / "dhcp"
        self._folder = folder or ours
        self._ipxe = ipxe
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._said: deque[str] = deque(maxlen=8)

    @property
    def tftp(self) -> Path:
        return self._folder / "tftp"

    async def start(self) -> None:
        """Start dnsmasq. Raises DhcpError if it is missing, not permitted, or ends at once."""
        program = shutil.which("dnsmasq", path=f"{os.defpath}:/usr/sbin:/sbin")
        if program is None:
            raise DhcpError("dnsmasq is not installed", hint="apt-get install dnsmasq-base")
        check_rights(Path("/proc/self/status").read_text())
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o755)
        copy_ipxe(self._ipxe, self.tftp)
        config = self._folder / "dnsmasq.conf"
        config.write_text(dnsmasq_config(self.plan, self.tftp, self._data / "dhcp.leases"))
        self._end_forerunner(config)
        self._process = await asyncio.create_subprocess_exec(
            program,
            "--keep-in-foreground",
            f"--conf-file={config}",
            f"--pid-file={self._folder / 'pid'}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for serve, which then stops us
        )
        self._reading = asyncio.create_task(self._read())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _START_S)
            await self._reading
            raise self._death()

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            text = line.decode(errors="replace").rstrip()
            self._said.append(text)
            LOG.info("%s", text)

    def _death(self) -> DhcpError:
        assert self._process is not None
        status = self._process.returncode
        said = "; ".join(list(self._said)[-2:]) or "it said nothing"
        other = "is another DHCP server running on this host? ss -lunp 'sport = :67'"
        return DhcpError(
            f"dnsmasq ended with status {status}: {said}",
            hint=other if status == _BAD_NET else None,
        )

    def _end_forerunner(self, config: Path) -> None:
        """End the dnsmasq of a serve that was killed: it would hold our ports."""
        try:
            number = int((self._folder / "pid").read_text())
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return
        if f"--conf-file={config}".encode() in words:
            LOG.warning("ending the dnsmasq %d that an earlier serve left behind", number)
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
            time.sleep(_START_S)

    async def watch(self) -> None:
        """Start dnsmasq again when it dies; raise DhcpError when it dies young."""
        while True:
            assert self._process is not None
            assert self._reading is not None
            began = time.monotonic()
            await self._process.wait()
            await self._reading
            death = self._death()
            if time.monotonic() - began < _STEADY_S:
                raise death
            LOG.error("%s; starting it again", death)
            await self.start()

    async def stop(self) -> None:
        """End dnsmasq and remove what only this run needed."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reading is not None:
            await self._reading
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def running_dnsmasq(dnsmasq: Dnsmasq) -> AsyncIterator[asyncio.Task[None]]:
    """Run dnsmasq for the block. The task given ends only by failing, with DhcpError."""
    watching: asyncio.Task[None] | None = None
    try:
        await dnsmasq.start()
        watching = asyncio.create_task(dnsmasq.watch())
        yield watching
    finally:
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError, DhcpError):
                await watching
        await dnsmasq.stop()
