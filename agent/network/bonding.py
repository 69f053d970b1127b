"""The names of a bond's and a bridge's parameters as the kernel and most stacks have them."""

from collections.abc import Iterator

from agent.model.network import Bond


def kernel_options(bond: Bond, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the bonding driver's own options, mode first."""
    given = bond.parameters
    wanted: tuple[tuple[str, str | int | None], ...] = (
        ("mode", given.mode),
        ("miimon", given.mii_monitor_interval_ms),
        ("lacp_rate", given.lacp_rate),
        ("xmit_hash_policy", given.transmit_hash_policy),
        ("primary", names[given.primary] if given.primary else None),
        ("min_links", given.min_links),
        ("updelay", given.up_delay_ms),
        ("downdelay", given.down_delay_ms),
        ("arp_interval", given.arp_interval_ms),
        ("arp_ip_target", ",".join(given.arp_ip_targets) or None),
    )
    for key, value in wanted:
        if value is not None:
            yield key, str(value)
