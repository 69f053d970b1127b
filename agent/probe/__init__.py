"""Looks at the machine, never touches it."""

from pathlib import Path

from agent.model.inventory import Drive, Inventory, Nic
from agent.probe.board import probe_board, probe_cpu, probe_kernel, probe_memory
from agent.probe.disks import probe_disks
from agent.probe.firmware import probe_firmware
from agent.probe.network import Link, probe_links, probe_nics
from agent.probe.page import render_inventory
from agent.probe.raid import probe_md_arrays, probe_raid_controllers
from agent.probe.tree import Tree
from agent.probe.udev import UdevDb, probe_udev
from agent.system.command import Runner
from agent.tools.imsm import has_firmware

__all__ = ["probe_drives", "probe_interfaces", "probe_inventory", "render_inventory"]


def probe_inventory(
    run: Runner,
    *,
    boot_mac: str | None = None,
    lldp_seconds: float = 0,
    root: Path = Path("/"),
    udev: UdevDb | None = None,
    links: tuple[Link, ...] | None = None,
) -> Inventory:
    """Return what this machine is, as far as we may see it.

    `boot_mac` is BOOTIF's. With `lldp_seconds`, listens that long for switches on the interfaces
    that have a link. `root`, `udev` and `links` stand in for a recorded machine.
    """
    tree = Tree(root)
    udev = probe_udev() if udev is None else udev
    links = probe_links() if links is None else links
    nics = probe_nics(tree, links, boot_mac)
    if lldp_seconds > 0:
        nics = _with_neighbours(tree, links, nics, boot_mac, lldp_seconds)
    firmware, secure_boot = probe_firmware(tree)
    arch, kernel = probe_kernel(tree)
    cpu_model, cpus = probe_cpu(tree)
    return Inventory(
        firmware=firmware,
        secure_boot=secure_boot,
        arch=arch,
        kernel=kernel,
        board=probe_board(tree),
        cpu_model=cpu_model,
        cpus=cpus,
        memory_bytes=probe_memory(tree),
        disks=probe_disks(run, tree, udev),
        raid_controllers=probe_raid_controllers(tree),
        imsm=has_firmware(run),
        md_arrays=probe_md_arrays(tree, udev),
        nics=nics,
    )


def probe_drives(run: Runner) -> tuple[Drive, ...]:
    """Return the disks alone, as they are now."""
    return probe_disks(run, Tree(), probe_udev())


def probe_interfaces(boot_mac: str | None = None) -> tuple[Nic, ...]:
    """Return the network interfaces alone: what `bring_network_up` asks for, again and again."""
    return probe_nics(Tree(), probe_links(), boot_mac)


def _with_neighbours(
    tree: Tree,
    links: tuple[Link, ...],
    nics: tuple[Nic, ...],
    boot_mac: str | None,
    seconds: float,
) -> tuple[Nic, ...]:
    from agent.probe.lldp import listen_lldp

    heard = listen_lldp([nic.name for nic in nics if nic.link], seconds)
    return probe_nics(tree, links, boot_mac, heard)
