"""DHCP for IPv4, by busybox's udhcpc, which stays behind to keep the lease."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError, CommandFailed
from agent.system.command import Runner, Word

RUN_DIR: Final = Path("/run/metalcast")
PAUSE_S: Final = 4
_SCRIPT: Final = """\
#!/bin/sh
# Called by udhcpc(8): writes the lease down. The agent itself sets the address.
case "$1" in bound|renew) ;; *) exit 0 ;; esac
for name in ip mask router dns domain search staticroutes mtu serverid lease; do
    eval "printf '%s=%s\\n' \\"$name\\" \\"\\$$name\\""
done > "$METALCAST_LEASE.part" && mv "$METALCAST_LEASE.part" "$METALCAST_LEASE"
"""


class NoLease(AgentError):
    """Nobody answered, or what was answered is no lease."""


@dataclass(frozen=True, slots=True)
class Route:
    """`gateway` None: the network is on the wire itself."""

    to: str
    gateway: str | None


@dataclass(frozen=True, slots=True)
class Lease:
    """What an interface got. `address` is CIDR."""

    address: str
    routes: tuple[Route, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    mtu: int | None = None
    server: str | None = None


def ask_dhcp(run: Runner, device: str, wait_s: int, run_dir: Path = RUN_DIR) -> Lease:
    """Return the lease that `device` gets within about `wait_s` seconds.

    udhcpc goes on in the background to renew it; its process is in `run_dir/DEVICE.pid`.
    Raises NoLease.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    script, lease = run_dir / "udhcpc-script", run_dir / f"{device}.lease"
    script.write_text(_SCRIPT)
    script.chmod(0o755)
    lease.unlink(missing_ok=True)
    tries = max(wait_s // PAUSE_S, 1)
    words: list[Word] = [
        "busybox",
        "udhcpc",
        "-i",
        device,
        "-s",
        script,
        "-p",
        run_dir / f"{device}.pid",
    ]
    words += ["-t", str(tries), "-T", str(PAUSE_S), "-n", "-V", "metalcast"]
    words += ["-O", "staticroutes", "-O", "mtu", "-O", "search"]
    try:
        run(words, timeout_s=wait_s + 30, env={"METALCAST_LEASE": str(lease)})
    except CommandFailed as error:
        if "not installed" in str(error) or "cannot be run" in str(error):
            raise
        raise NoLease(f"no DHCP answer in {tries * PAUSE_S} s") from error
    try:
        return parse_lease(lease.read_text(encoding="ascii", errors="replace"))
    except FileNotFoundError as error:
        raise NoLease("udhcpc ended without writing a lease") from error


def parse_lease(text: str) -> Lease:
    """Return the lease in udhcpc's variables, one `name=value` a line.

    It came over the network: what is no address is refused. Raises NoLease.
    """
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    try:
        own = ipaddress.IPv4Interface(f"{values.get('ip', '')}/{values.get('mask') or 24}")
        routes = _static_routes(values.get("staticroutes", "").split())
        # RFC 3442: with classless routes, the router option is not to be looked at
        if not routes:
            gateways = [str(ipaddress.IPv4Address(word)) for word in values["router"].split()]
            routes = tuple(Route("0.0.0.0/0", gateway) for gateway in gateways[:1])
        names = [str(ipaddress.IPv4Address(word)) for word in values.get("dns", "").split()]
        mtu = int(values.get("mtu") or 0)
    except (ValueError, KeyError) as error:
        raise NoLease(f"the DHCP server's answer cannot be used: {error}") from error
    search = f"{values.get('domain', '')} {values.get('search', '')}".split()
    return Lease(
        address=own.with_prefixlen,
        routes=routes,
        dns=tuple(names[:3]),
        search=tuple(dict.fromkeys(word for word in search if _is_domain(word))),
        mtu=mtu if 576 <= mtu <= 65535 else None,
        server=values.get("serverid") or None,
    )


def _static_routes(words: list[str]) -> tuple[Route, ...]:
    pairs = zip(words[::2], words[1::2], strict=True)
    routes = []
    for to, gateway in pairs:
        by = ipaddress.IPv4Address(gateway)
        network = ipaddress.IPv4Network(to, strict=False)
        routes.append(Route(str(network), None if by == ipaddress.IPv4Address(0) else str(by)))
    return tuple(routes)


def _is_domain(word: str) -> bool:
    return len(word) <= 253 and all(
        part and part.isascii() and part.replace("-", "").replace("_", "").isalnum()
        for part in word.removesuffix(".").split(".")
    )
