"""crypttab(5) for another layout. Pure."""

from typing import Final

from agent.identity.boot.names import luks_name, volume_at
from agent.model.layout import Layout, Swap
from agent.model.nodes import Luks

_INITRAMFS: Final = "initramfs"


def render_crypttab(text: str, old: Layout, new: Layout, *, initramfs_tools: bool) -> str:
    """Return `text` for the containers of `new`.

    A line that opens one of them under its name keeps its key and options; those of `old` that are
    gone go; what is on neither stays. Under initramfs-tools, what `/` stands on gets the option
    `initramfs`: its hook does not see it from a root that we have opened under our own name.
    """
    wanted = {luks_name(one): one for one in new.nodes if isinstance(one, Luks)}
    before = {luks_name(one) for one in old.nodes if isinstance(one, Luks)}
    early = _opened_early(new)
    lines, seen = [], set()
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            lines.append(line)
        elif words[0] in wanted and words[0] not in seen:
            luks = wanted[words[0]]
            key = words[2] if len(words) > 2 else "none"
            options = words[3].split(",") if len(words) > 3 else ["luks"]
            seen.add(words[0])
            lines.append(_line(luks, key, options, initramfs_tools and luks.id in early))
        elif words[0] not in before and not _is_random_swap(words):
            lines.append(line)
    for name, luks in wanted.items():
        if name not in seen:
            lines.append(_line(luks, "none", ["luks"], initramfs_tools and luks.id in early))
    return "\n".join(lines) + "\n" if lines else ""


def _line(luks: Luks, key: str, options: list[str], early: bool) -> str:
    if early and _INITRAMFS not in options:
        options = [*options, _INITRAMFS]
    return f"{luks_name(luks)} UUID={luks.uuid} {key} {','.join(options)}"


def _opened_early(layout: Layout) -> frozenset[str]:
    """Return the containers that must be open before there is a root: of `/` and `/usr`."""
    volumes = [volume_at(layout, "/"), volume_at(layout, "/usr")]
    nodes = [node for volume in volumes if volume for node in layout.carriers(volume.on)]
    return frozenset(node.id for node in nodes if isinstance(node, Luks))


def _is_random_swap(words: list[str]) -> bool:
    """Swap with a key made at each boot: its device is not there, and fstab has another swap."""
    return len(words) > 3 and "swap" in words[3].split(",") and words[2].startswith("/dev/")


def swaps_of(layout: Layout) -> tuple[str, ...]:
    """Return the UUIDs of the swap volumes."""
    found = (one.content for one in layout.volumes if isinstance(one.content, Swap))
    return tuple(swap.uuid for swap in found if swap.uuid)
