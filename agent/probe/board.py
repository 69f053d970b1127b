"""The machine as its maker names it (SMBIOS), its processors and its memory."""

import platform
import re

from agent.model.inventory import Board
from agent.probe.tree import Tree

_NO_VALUE = re.compile(
    r"(?i)to be filled by o\.?e\.?m\.?|default string|not specified|system (product|manufacturer|"
    r"serial number|version)|(base board|chassis) serial number|none|n/?a|o\.?e\.?m\.?|"
    r"x{3,}|0+|[0-]+|f{8}(-f{4}){3}-f{12}|0?1?234567890?9?|empty|unknown"
)
"""What makers leave in a field that they never filled: no name of any machine."""


def probe_board(tree: Tree) -> Board:
    """Return SMBIOS's names. The serials and the UUID are for root's eyes: else None."""
    return Board(
        vendor=_dmi(tree, "sys_vendor"),
        product=_dmi(tree, "product_name"),
        serial=_dmi(tree, "product_serial"),
        uuid=(_dmi(tree, "product_uuid") or "").lower() or None,
        board_vendor=_dmi(tree, "board_vendor"),
        board_product=_dmi(tree, "board_name"),
        bios_vendor=_dmi(tree, "bios_vendor"),
        bios_version=_dmi(tree, "bios_version"),
    )


def probe_kernel(tree: Tree) -> tuple[str, str]:
    """Return the architecture (`x86_64`) and the kernel's release."""
    arch = tree.text("/proc/sys/kernel/arch") or platform.machine()
    return arch, tree.text("/proc/sys/kernel/osrelease") or "unknown"


def probe_memory(tree: Tree) -> int:
    """Return the bytes of memory that the kernel can use; firmware keeps some for itself."""
    return parse_meminfo(tree.text("/proc/meminfo") or "")


def probe_cpu(tree: Tree) -> tuple[str, int]:
    """Return the processor's name and how many of them the kernel runs."""
    return parse_cpuinfo(tree.text("/proc/cpuinfo") or "")


def parse_meminfo(text: str) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def parse_cpuinfo(text: str) -> tuple[str, int]:
    names = re.findall(r"^(?:model name|cpu model|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    count = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    return (" ".join(names[0].split()) if names else "unknown"), count


def _dmi(tree: Tree, name: str) -> str | None:
    text = tree.text(f"/sys/class/dmi/id/{name}")
    return None if text is None or _NO_VALUE.fullmatch(text) else text
