"""The layout of the source disks: arrays, LUKS and groups are opened read-only while it is used."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from agent.errors import AgentError, with_hint
from agent.model.found import FoundContent, FoundDisk, FoundSystem
from agent.model.inventory import Drive
from agent.model.keys import DiskKey, keys_for
from agent.model.layout import Raw, Vfat
from agent.model.md_size import why_not
from agent.model.nodes import (
    ESP_TYPE,
    Array,
    Gpt,
    Holder,
    Luks,
    Mbr,
    MdLevel,
    MdMetadata,
    Node,
    Partition,
)
from agent.model.nodes import Disk as DiskNode
from agent.source.btrfs_devices import joined
from agent.source.tags import probe_tags
from agent.system import block
from agent.system.command import Runner
from agent.tools import (
    arrays,
    boot_sector,
    cryptsetup,
    filesystems,
    lvm_report,
    lvm_source,
    md_arrays,
    mdadm,
)
from agent.tools.efibootmgr import find_loader, has_fallback
from agent.tools.fat_directory import open_fat
from agent.tools.sfdisk import FoundTable, read_table

PartitionNode = Callable[[Path, int], Path]
MD, CRYPT, LVM = "linux_raid_member", "crypto_LUKS", "LVM2_member"
MD_MEMBERS = frozenset({MD, "isw_raid_member"})


def is_member(run: Runner, disk: Path) -> bool:
    """Return whether a disk is as a whole one member of an array, whatever table it shows.

    What lies at the front of an array whose superblocks are at the end is at the front of its
    first member too; with a superblock in front, a table is the disk's. One that is left from an
    earlier use of a disk does not count where the GPT is the whole disk's; one of 0.90 may also be
    that of the disk's last partition.
    """
    if probe_tags(run, disk).get("TYPE") not in MD_MEMBERS:
        return False
    member = mdadm.examine(run, disk)
    if member is None or boot_sector.is_gpt_of_whole(disk):
        return False
    if member.metadata in (MdMetadata.V1_1, MdMetadata.V1_2):
        return False
    if member.metadata is not MdMetadata.V0_90:
        return True
    found = read_table(run, disk)
    longest = max((part.size_bytes for part in found.partitions), default=0) if found else 0
    return member.area_bytes > longest


def node_of(disk: Path, number: int) -> Path:
    return Path(block.partition_path(disk, number))


@contextmanager
def opened_system(
    run: Runner,
    drives: Mapping[str, Drive],
    arch: str = "x86_64",
    keys: Sequence[DiskKey] = (),
    partition: PartitionNode = node_of,
) -> Iterator[FoundSystem]:
    """Yield what is on `drives` (by the ids that their disks get); stop all of it afterwards.

    The disks must be write-protected already. LUKS without a key in `keys` is kept whole.
    """
    with ExitStack() as stack:
        looking = _Looking(run, keys, partition, stack)
        for disk_id, drive in drives.items():
            looking.see_disk(disk_id, drive)
        while looking.see_more():
            pass
        yield looking.found(arch)


@dataclass(slots=True)
class _Looking:
    """What was found so far, and what has not been looked at."""

    run: Runner
    keys: Sequence[DiskKey]
    partition: PartitionNode
    stack: ExitStack
    nodes: list[Node] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)
    disks: list[FoundDisk] = field(default_factory=list)
    contents: dict[str, FoundContent] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    pieces: dict[str, list[str]] = field(default_factory=lambda: {MD: [], CRYPT: [], LVM: []})
    has_new_members: bool = False
    """Members of groups were found that no group has been looked for on."""
    unfit: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def see_disk(self, disk_id: str, drive: Drive) -> None:
        path = Path(drive.path)
        node = DiskNode(
            id=disk_id,
            size_bytes=drive.size_bytes,
            sector_bytes=drive.sector_bytes,
            physical_sector_bytes=drive.physical_sector_bytes,
            table=None,
        )
        found = None if is_member(self.run, path) else read_table(self.run, path)
        self._see_table(node, path, found, drive.sector_bytes)

    def _see_table(
        self, holder: Holder, path: Path, found: FoundTable | None, sector_bytes: int
    ) -> None:
        """Take in a disk or array: its partitions if it has a table, else what it carries."""
        table = found.table if found else None
        if isinstance(table, Gpt):
            table = Gpt(uuid=table.uuid, hybrid=boot_sector.read_hybrid_entries(path))
        self._add(replace(holder, table=table), path)
        if found is not None and table is None:
            self.unfit.append(f"{path} has a table of the kind {found.label}, which we cannot read")
        if found is None or table is None:
            if isinstance(holder, DiskNode):
                self.disks.append(FoundDisk(id=holder.id, sector_bytes=sector_bytes))
            self.unseen.append(holder.id)
            return
        for part in sorted(found.partitions, key=lambda part: part.offset_bytes):
            known = Partition(
                id=f"{holder.id}p{part.number}",
                on=holder.id,
                number=part.number,
                offset_bytes=part.offset_bytes,
                size_bytes=part.size_bytes,
                type=part.type,
                uuid=part.uuid,
                name=part.name,
                attributes=part.attributes,
            )
            self._add(known, self.partition(path, part.number))
            if not known.is_extended:
                self.unseen.append(known.id)
        first = min((part.offset_bytes for part in found.partitions), default=0)
        gap = boot_sector.read_gap(path, sector_bytes, first)
        self.disks.append(
            FoundDisk(
                id=holder.id,
                sector_bytes=sector_bytes,
                boot_code=boot_sector.is_boot_code(boot_sector.read_boot_code(path)),
                gap_bytes=gap if isinstance(table, Mbr) else 0,
            )
        )

    def see_more(self) -> bool:
        """Look at what has not been looked at, open what it carries; return whether there was.

        Groups come after arrays and LUKS: they may have members on both.
        """
        waiting, self.unseen = self.unseen, []
        fresh: dict[str, list[str]] = {MD: [], CRYPT: [], LVM: []}
        for node_id in waiting:
            what = self._see(node_id)
            if what in fresh:
                fresh[what].append(node_id)
        for kind, ids in fresh.items():
            self.pieces[kind] += ids
        if fresh[MD]:
            self._assemble(fresh[MD])
        for node_id in fresh[CRYPT]:
            self._unlock(node_id)
        self.has_new_members |= bool(fresh[LVM])
        if self.has_new_members and not self.unseen:
            self.has_new_members = False
            self._activate()
        return bool(self.unseen) or self.has_new_members

    def _see(self, node_id: str) -> str | None:
        path = self.paths[node_id]
        tags = probe_tags(self.run, path)
        what = tags.get("TYPE")
        size = block.size_bytes(path)
        raw = FoundContent(
            on=node_id,
            path=str(path),
            what=what,
            content=Raw(),
            content_bytes=size,
            used_bytes=size,
            minimum_bytes=size,
        )
        if what in MD_MEMBERS:
            return MD
        if what in self.pieces:
            return what
        if tags.get("PTTYPE") and what is None and "p" not in node_id[1:]:
            self.unfit.append(
                f"{path} ({node_id}) holds a partition table inside of something else, which is "
                "not captured yet"
            )
        if what is not None:
            try:
                facts = filesystems.facts(self.run, path, what)
            except AgentError as error:
                raw = _unfit(raw, (with_hint(error),))
            else:
                raw = FoundContent(
                    on=node_id,
                    path=str(path),
                    what=what,
                    content=facts.content,
                    content_bytes=facts.content_bytes,
                    used_bytes=facts.used_bytes,
                    minimum_bytes=facts.minimum_bytes,
                    unfit=facts.unfit,
                )
        self.contents[node_id] = raw
        return what

    def _assemble(self, member_ids: list[str]) -> None:
        members = [
            (node_id, member)
            for node_id in member_ids
            if (member := mdadm.examine(self.run, self.paths[node_id])) is not None
        ]
        known = {node_id for node_id, _ in members}
        self.unfit += [
            f"{self.paths[node_id]} ({node_id}) has the signature of an array's member, of which "
            "mdadm --examine knows nothing: see wipefs"
            for node_id in member_ids
            if node_id not in known
        ]
        begun = sum(isinstance(node, Array) for node in self.nodes)
        for number, found in enumerate(md_arrays.find_arrays(members), start=begun):
            self.unfit += found.unfit
            self.notes += found.notes
            if found.array and (why := why_not(found.array)):
                self.unfit.append(f"{found.name} is {found.array.level}: {why}")
                continue
            if found.unfit or found.array is None:
                continue
            array = replace(found.array, id=f"md{number}")
            path = arrays.assemble_read_only(
                self.run,
                array,
                [self.paths[member] for member in array.members if member],
            )
            self.stack.callback(arrays.stop, self.run, path)
            array = replace(array, size_bytes=block.size_bytes(path))
            tags = probe_tags(self.run, path)
            has_table = "PTTYPE" in tags and "TYPE" not in tags
            # of a linear one, shown by device-mapper, the kernel would not show partitions
            is_md = array.level is not MdLevel.LINEAR
            table = read_table(self.run, path) if is_md and has_table else None
            self._see_table(array, path, table, block.sector_bytes(path))

    def _unlock(self, node_id: str) -> None:
        path = self.paths[node_id]
        header = cryptsetup.read_header(self.run, path)
        keys = keys_for(self.keys, uuid=header.uuid, node=node_id)
        if not keys:
            size = block.size_bytes(path)
            self.notes.append(
                f"{path} is encrypted and no key was given: it is kept whole, {size} bytes, and "
                "nothing in it can grow or become a machine's own"
            )
            self.contents[node_id] = FoundContent(
                on=node_id,
                path=str(path),
                what=CRYPT,
                content=Raw(),
                content_bytes=size,
                used_bytes=size,
                minimum_bytes=size,
            )
            return
        luks_id = f"luks{sum(node.id.startswith('luks') for node in self.nodes)}"
        name = f"metalcast-source-{luks_id}"
        opened = cryptsetup.open_read_only(self.run, path, name, keys[0].secret())
        self.stack.callback(cryptsetup.close_luks, self.run, name)
        node = Luks(
            id=luks_id,
            on=node_id,
            version=header.version,
            uuid=header.uuid,
            label=header.label,
            cipher=header.cipher,
            key_bytes=header.key_bytes,
            sector_bytes=header.sector_bytes,
            tokens=header.tokens,
            kdf=header.kdf,
            offset_bytes=header.offset_bytes,
            size_bytes=block.size_bytes(opened),
        )
        self._add(node, opened)
        if header.tokens:
            self.notes.append(
                f"{path} can be opened by {', '.join(header.tokens)}: that is this machine's own, "
                "so enrol a deployed one anew (systemd-cryptenroll, clevis luks bind)"
            )
        self.unseen.append(luks_id)

    def _activate(self) -> None:
        devices = {node_id: self.paths[node_id] for node_id in self.pieces[LVM]}
        seen = {node.id for node in self.nodes}
        for found in lvm_report.read_groups(self.run, devices):
            if found.group.id in seen:
                continue
            self.unfit += found.unfit
            self.notes += found.notes
            if found.unfit:
                continue
            paths = self.stack.enter_context(lvm_source.active_read_only(self.run, found, devices))
            self._add(found.group, None)
            for lv in found.volumes:
                self._add(lv, paths.get(lv.id))
                if lv.id in paths:
                    self.unseen.append(lv.id)

    def _add(self, node: Node, path: Path | None) -> None:
        self.nodes.append(node)
        if path is not None:
            self.paths[node.id] = path

    def found(self, arch: str) -> FoundSystem:
        loader, fallback = self._read_esp(arch)
        contents, notes = joined(self.contents.values())
        order = {node.id: number for number, node in enumerate(self.nodes)}
        return FoundSystem(
            disks=tuple(self.disks),
            nodes=tuple(self.nodes),
            paths={node_id: str(path) for node_id, path in self.paths.items()},
            contents=tuple(sorted(contents.values(), key=lambda one: order[one.on])),
            efi_loader=loader,
            has_fallback_loader=fallback,
            unfit=tuple(self.unfit),
            notes=(*self.notes, *notes),
        )

    def _read_esp(self, arch: str) -> tuple[str | None, bool | None]:
        for one in self.contents.values():
            if isinstance(one.content, Vfat) and self._is_esp(one.on):
                path = Path(one.path)
                fat = open_fat(lambda at, size, path=path: boot_sector.read_at(path, at, size))  # type: ignore[misc]
                return find_loader(fat, arch, None), has_fallback(fat, arch)
        return None, None

    def _is_esp(self, node_id: str) -> bool:
        node = next(node for node in self.nodes if node.id == node_id)
        if isinstance(node, Partition):
            return node.type in (ESP_TYPE, "ef")
        return any(self._is_esp(below) for below in node.below)


def _unfit(content: FoundContent, reasons: tuple[str, ...]) -> FoundContent:
    return FoundContent(
        on=content.on,
        path=content.path,
        what=content.what,
        content=content.content,
        content_bytes=content.content_bytes,
        used_bytes=content.used_bytes,
        minimum_bytes=content.minimum_bytes,
        unfit=(*content.unfit, *reasons),
    )
