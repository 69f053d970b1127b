"""The filesystems of a new layout: of the kind that is asked for, as the template's are. Pure."""

from typing import Final

from agent.model.filesystems import conservative_features
from agent.model.layout import Btrfs, Content, Ext, Swap, Vfat, Volume, Xfs
from agent.model.nodes import Node, VolumeGroup
from agent.model.storage import Filesystem, FormatAction
from agent.model.template import TemplateConfig

_PAGE: Final = 4096


def new_volume(
    node: Node, fresh: str, template: TemplateConfig, action: FormatAction, mount: str | None
) -> Volume:
    """Return the empty volume that `action` makes on `node`; `fresh` is its new UUID."""
    size = 0 if isinstance(node, VolumeGroup) else node.size_bytes
    was = next((v for v in template.layout.volumes if mount and v.mount == mount), None)
    if was is None and mount:
        was = next((v for v in template.layout.volumes if v.mount == "/"), None)
    return Volume(
        id=action.id,
        on=action.volume,
        content=_content(action, fresh, was.content if was else None, template),
        size_bytes=size,
        used_bytes=0,
        minimum_bytes=0,
        mount=mount,
    )


def _content(
    action: FormatAction, fresh: str, was: Content | None, template: TemplateConfig
) -> Content:
    """Return what is made. A kind that the template does not use gets what its system can read."""
    kind = _kept(was) if action.fstype is Filesystem.KEEP else action.fstype

    def features(tag: str) -> tuple[str, ...]:
        return conservative_features(tag, template.os) or ()

    match kind:
        case Filesystem.XFS:
            old = was if isinstance(was, Xfs) else None
            return Xfs(
                uuid=fresh,
                label=action.label,
                block_bytes=old.block_bytes if old else _PAGE,
                features=old.features if old else features("xfs"),
            )
        case Filesystem.BTRFS:
            kept = was.features if isinstance(was, Btrfs) else features("btrfs")
            return Btrfs(uuid=fresh, label=action.label, block_bytes=_PAGE, features=kept)
        case Filesystem.VFAT:
            short = fresh[:4].upper() + "-" + fresh[4:8].upper()
            return Vfat(uuid=short, label=action.label)
        case Filesystem.SWAP:
            return Swap(uuid=fresh, label=action.label, page_bytes=_PAGE)
        case _:
            kept = was.features if isinstance(was, Ext) else features("ext")
            return Ext(uuid=fresh, label=action.label, block_bytes=_PAGE, features=kept)


def _kept(was: Content | None) -> Filesystem:
    match was:
        case Xfs():
            return Filesystem.XFS
        case Btrfs():
            return Filesystem.BTRFS
        case Vfat():
            return Filesystem.VFAT
        case _:
            return Filesystem.EXT4
