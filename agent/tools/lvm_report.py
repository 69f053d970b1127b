"""The volume groups on some devices, as LVM reports them, and what is not captured of them."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from agent.model.nodes import LogicalVolume, LvKind, NodeId, PhysicalVolume, VolumeGroup
from agent.model.wire import BadDocument
from agent.system.command import Runner
from agent.tools.lvm_command import lvm

_Checked = TypeVar("_Checked", VolumeGroup, LogicalVolume)

_VG: Final = (
    "vg_name,vg_uuid,vg_extent_size,vg_missing_pv_count,vg_exported,vg_lock_type,vg_systemid"
)
_PV: Final = "pv_name,pv_uuid,pv_pe_count,pv_missing"
_LV: Final = (
    "lv_uuid,lv_name,lv_role,lv_size,lv_metadata_size,pool_lv,origin,lv_health_status,"
    "lv_converting,lv_merging,mirror_log"
)
_SEGMENT: Final = (
    "lv_uuid,segtype,stripes,data_stripes,data_copies,stripe_size,region_size,chunk_size"
)

_KINDS: Final = {
    "linear": LvKind.LINEAR,
    "striped": LvKind.STRIPED,
    "mirror": LvKind.MIRROR,
    "raid0": LvKind.RAID0,
    "raid0_meta": LvKind.RAID0,
    "raid1": LvKind.RAID1,
    "raid10": LvKind.RAID10,
    "raid10_near": LvKind.RAID10,
    "thin-pool": LvKind.THIN_POOL,
    "thin": LvKind.THIN,
}
_PARITY: Final = {"raid5": LvKind.RAID5, "raid6": LvKind.RAID6}
_CURES: Final = {
    "cache": "run: lvconvert --uncache {lv}",
    "cache-pool": "run: lvremove {lv}, when no volume uses it as its cache",
    "writecache": "run: lvconvert --uncache {lv}",
    "integrity": "run: lvconvert --raidintegrity n on the volume that it belongs to",
    "vdo": "copy its files to a volume of another kind",
    "vdo-pool": "move the volume that it carries to another kind",
    "raid4": "run: lvconvert --type raid5 {lv}",
}
# The more a kind asks for (several devices, equal pieces), the earlier it is made.
_ORDER: Final = (
    *(LvKind.RAID10, LvKind.RAID6, LvKind.RAID5, LvKind.RAID1, LvKind.MIRROR, LvKind.RAID0),
    *(LvKind.STRIPED, LvKind.THIN_POOL, LvKind.LINEAR, LvKind.THIN),
)


@dataclass(frozen=True, slots=True)
class FoundGroup:
    """A volume group of the source."""

    group: VolumeGroup
    """With the members that are there."""
    volumes: tuple[LogicalVolume, ...]
    """Those that people see, in the order in which they can be made."""
    unfit: tuple[str, ...] = ()
    """Why it cannot be captured as it is, each with what to do."""
    notes: tuple[str, ...] = ()
    system_id: str = ""
    """The one host that may use the group, by LVM's own rule; mostly empty."""


def read_groups(run: Runner, devices: Mapping[NodeId, Path]) -> tuple[FoundGroup, ...]:
    """Return the groups that have a member among `devices`, in the order of their first members.

    So a group keeps its id when devices are added at the end.
    """
    if not devices:
        return ()
    words = ["fullreport", "--foreign", "--shared", "--all", "--binary"]
    words += ["--reportformat", "json", "--units", "b", "--nosuffix"]
    for name, fields in (("vg", _VG), ("pv", _PV), ("lv", _LV), ("seg", _SEGMENT)):
        words += ["--configreport", name, "--options", fields]
    words += ["--configreport", "pvseg", "--options", "pvseg_start"]
    # A missing device is status 5 here, and the report is there nevertheless.
    answer = lvm(run, words, devices.values(), ok=(0, 5))
    return parse_groups(answer.text, devices)


def parse_groups(text: str, devices: Mapping[NodeId, Path]) -> tuple[FoundGroup, ...]:
    """Return the groups in the JSON of `lvm fullreport`, its numbers in bytes."""
    try:
        told = json.loads(text)["report"]
        listed = {row["pv_name"] for one in told for row in one.get("pv", ())}
        reports = [one for one in told if one.get("vg")]
        read = [_Group.of(report, devices) for report in reports]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadDocument(f"lvm: cannot read its report: {error!r}") from error
    places = list(devices)
    read = [group for group in read if group.members]
    read.sort(key=lambda group: places.index(group.members[0].on))
    names = Counter(group.vg["vg_name"] for group in read)
    try:
        found = tuple(group.found(f"vg{n}", names) for n, group in enumerate(read))
    except (ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise BadDocument(f"lvm: cannot read its report: {error!r}") from error
    # LVM takes one of two devices with the same UUID, and tells of that one alone
    twins = [node_id for node_id, path in devices.items() if str(path) not in listed]
    if not twins:
        return found
    why = (
        f"{', '.join(twins)} has the UUID of another physical volume: a copy of a disk is "
        "plugged in beside it; capture with one of them",
    )
    return tuple(dataclasses.replace(one, unfit=(*one.unfit, *why)) for one in found)


@dataclass(frozen=True, slots=True)
class _Group:
    """The rows of one group."""

    vg: dict[str, str]
    members: tuple[PhysicalVolume, ...]
    missing: tuple[str, ...]
    lvs: tuple[dict[str, str], ...]
    segments: dict[str, list[dict[str, str]]]
    """By the volume's UUID."""

    @classmethod
    def of(cls, report: dict[str, Any], devices: Mapping[NodeId, Path]) -> "_Group":
        vg = report["vg"][0]
        nodes = {str(path): node_id for node_id, path in devices.items()}
        members: list[PhysicalVolume] = []
        missing: list[str] = []
        for row in report["pv"]:
            if row["pv_missing"] != "0" or row["pv_name"] not in nodes:
                missing.append(row["pv_uuid"])
                continue
            size = int(row["pv_pe_count"]) * int(vg["vg_extent_size"])
            on = nodes[row["pv_name"]]
            members.append(PhysicalVolume(on=on, uuid=row["pv_uuid"], size_bytes=size))
        places = list(devices)
        members.sort(key=lambda member: places.index(member.on))
        segments: dict[str, list[dict[str, str]]] = {}
        for row in report.get("seg", []):
            segments.setdefault(row["lv_uuid"], []).append(row)
        return cls(vg, tuple(members), tuple(missing), tuple(report.get("lv", [])), segments)

    def found(self, node_id: str, names: Mapping[str, int]) -> FoundGroup:
        group = _checked(
            VolumeGroup(
                id=node_id,
                physical=self.members,
                name=self.vg["vg_name"],
                uuid=self.vg["vg_uuid"],
                extent_bytes=int(self.vg["vg_extent_size"]),
            )
        )
        unfit = [*self._group_objections(names)]
        seen = [row for row in self.lvs if not row["lv_name"].startswith("[")]
        kinds = {row["lv_name"]: self._kind(row) for row in seen}
        for row in self.lvs:
            unfit += self._objections(row, kinds)
        rows = [row for row in seen if kinds[row["lv_name"]] is not None]
        rows.sort(key=lambda row: _ORDER.index(kinds[row["lv_name"]] or LvKind.THIN))
        ids = {row["lv_name"]: f"{node_id}lv{n}" for n, row in enumerate(rows)}
        volumes = [
            _checked(self._volume(row, kind, node_id, ids))
            for row in rows
            if (kind := kinds[row["lv_name"]]) is not None
        ]
        return FoundGroup(
            group,
            tuple(volumes),
            tuple(dict.fromkeys(unfit)),
            tuple(self._notes(rows, kinds)),
            self.vg["vg_systemid"],
        )

    def _kind(self, row: dict[str, str]) -> LvKind | None:
        kind = self._segtype(row)
        return _KINDS.get(kind) or _PARITY.get(kind.partition("_")[0])

    def _segtype(self, row: dict[str, str]) -> str:
        segments = self.segments.get(row["lv_uuid"], [])
        return segments[0]["segtype"] if segments else "unknown"

    def _volume(
        self, row: dict[str, str], kind: LvKind, group_id: str, ids: Mapping[str, str]
    ) -> LogicalVolume:
        segment = self.segments[row["lv_uuid"]][0]
        shape = self._data_of(row) if kind is LvKind.THIN_POOL else segment
        is_striped = shape["segtype"] == "striped" or kind.startswith("raid")
        is_striped = is_striped and kind is not LvKind.RAID1
        is_copied = kind in (LvKind.RAID1, LvKind.RAID10, LvKind.MIRROR)
        copies = _number(segment["stripes" if kind is LvKind.MIRROR else "data_copies"])
        return LogicalVolume(
            id=ids[row["lv_name"]],
            on=group_id,
            name=row["lv_name"],
            uuid=row["lv_uuid"],
            lv=kind,
            size_bytes=int(row["lv_size"]),
            stripes=_number(shape["data_stripes"]) if is_striped else 1,
            stripe_bytes=_number(shape["stripe_size"]) if is_striped else 0,
            mirrors=copies - 1 if is_copied else 0,
            region_bytes=_number(segment["region_size"]),
            pool=ids[row["pool_lv"]] if kind is LvKind.THIN else None,
            chunk_bytes=_number(segment["chunk_size"]) if kind is LvKind.THIN_POOL else 0,
            metadata_bytes=_number(row["lv_metadata_size"]) if kind is LvKind.THIN_POOL else 0,
        )

    def _data_of(self, row: dict[str, str]) -> dict[str, str]:
        """Return the first segment of what a pool keeps its data in."""
        name = f"[{row['lv_name']}_tdata]"
        data = next(one for one in self.lvs if one["lv_name"] == name)
        return self.segments[data["lv_uuid"]][0]

    def _group_objections(self, names: Mapping[str, int]) -> Iterator[str]:
        name = self.vg["vg_name"]
        if missing := int(self.vg["vg_missing_pv_count"]) or len(self.missing):
            uuids = ", ".join(self.missing) or "unknown"
            yield (
                f"the volume group {name} lacks {missing} of its devices ({uuids}): capture "
                f"their disks as well, or run: vgreduce --removemissing {name}"
            )
        if names[name] > 1:
            yield (
                f"there are {names[name]} volume groups named {name}: run: "
                f"vgrename {self.vg['vg_uuid']} NEWNAME, or capture their disks one by one"
            )
        if self.vg["vg_exported"] not in ("", "0"):
            yield f"the volume group {name} is exported: run: vgimport {name}"
        if self.vg["vg_lock_type"] not in ("", "none"):
            yield (
                f"the volume group {name} is shared between hosts by {self.vg['vg_lock_type']}, "
                f"others may write to it: run: vgchange --lock-type none {name}"
            )

    def _objections(self, row: dict[str, str], kinds: Mapping[str, LvKind | None]) -> Iterator[str]:
        plain = row["lv_name"].strip("[]")
        lv = f"{self.vg['vg_name']}/{plain}"
        is_seen = plain == row["lv_name"]
        kind = self._segtype(row)
        roles = row["lv_role"].split(",")
        if kind in _CURES:
            yield f"{lv} is of type {kind}, which is not captured: {_CURES[kind].format(lv=lv)}"
        elif is_seen and kinds[plain] is None:
            yield f"{lv} is of type {kind}, which is not known: move its files to a linear volume"
        if "thicksnapshot" in roles:
            yield (
                f"{lv} is a snapshot of {row['origin']}, which is not captured: run: lvremove {lv} "
                f"or lvconvert --merge {lv}"
            )
        is_thin_copy = is_seen and kinds[plain] is LvKind.THIN and row["origin"]
        if is_thin_copy and kinds.get(row["origin"]) is not LvKind.THIN:
            yield (
                f"{lv} has its origin {row['origin']} outside of its pool, which is not "
                "captured: copy its files to a volume of its own"
            )
        if row["lv_converting"] == "1" or row["lv_merging"] == "1" or plain.startswith("pvmove"):
            yield f"{lv} is being converted, merged or moved: let that finish first"
        if kind == "mirror" and is_seen and not row["mirror_log"]:
            yield (
                f"{lv} keeps the log of its mirror in memory alone: "
                f"run: lvconvert --type raid1 {lv}"
            )
        if row["lv_health_status"]:
            yield f"{lv} is not healthy ({row['lv_health_status']}): see lvs -a, repair it first"
        yield from self._shape_objections(row, lv, kind, is_seen)

    def _shape_objections(
        self, row: dict[str, str], lv: str, kind: str, is_seen: bool
    ) -> Iterator[str]:
        segments = self.segments.get(row["lv_uuid"], [])
        shapes = {(one["segtype"], one["stripes"], one["stripe_size"]) for one in segments}
        if len(shapes) > 1 and (is_seen or "_tdata" in lv):
            words = ", ".join(sorted({shape[0] for shape in shapes}))
            yield (
                f"{lv} is made of pieces of different shapes ({words}), which is not captured: "
                "copy its files to a volume of one shape"
            )
        hidden = row["lv_name"].endswith(("_tdata]", "_tmeta]"))
        if hidden and kind != "linear" and not (kind == "striped" and "_tdata" in lv):
            yield (
                f"{lv}, a part of a thin pool, is of type {kind}, which would be lost: "
                "make the pool's parts linear"
            )

    def _notes(
        self, rows: list[dict[str, str]], kinds: Mapping[str, LvKind | None]
    ) -> Iterator[str]:
        for row in rows:
            lv = f"{self.vg['vg_name']}/{row['lv_name']}"
            if kinds[row["lv_name"]] is LvKind.THIN and row["origin"]:
                yield (
                    f"{lv} shares data with {row['origin']} on the source; on the target each has "
                    "its own, which takes more of the pool"
                )
            if kinds[row["lv_name"]] is LvKind.MIRROR:
                yield f"{lv} is a mirror of the old kind; on the target it is a raid1"


def _checked(value: _Checked) -> _Checked:
    """Return `value`. Raises msgspec.ValidationError if a field is not what its type allows."""
    return msgspec.convert(msgspec.to_builtins(value), type(value))


def _number(text: str) -> int:
    return int(text) if text else 0
