"""A wipe: how a disk's data are destroyed, the plan for it, and the certificate afterwards."""

import hashlib
from enum import StrEnum
from typing import Annotated

import msgspec

from agent.model.inventory import Board, Drive
from agent.model.wire import Value, encode


class WipeMethod(StrEnum):
    """What a job asks for. `auto` is the strongest that the drive says it can."""

    AUTO = "auto"
    DISCARD = "discard"
    ZERO = "zero"
    SANITIZE = "sanitize"
    SECURE_ERASE = "secure-erase"


class Way(StrEnum):
    """What is done to one disk, the strongest first."""

    SANITIZE_CRYPTO = "nvme-sanitize-crypto-erase"
    SANITIZE_BLOCK = "nvme-sanitize-block-erase"
    SANITIZE_OVERWRITE = "nvme-sanitize-overwrite"
    FORMAT_CRYPTO = "nvme-format-crypto-erase"
    FORMAT_USER_DATA = "nvme-format-user-data-erase"
    ATA_ENHANCED = "ata-secure-erase-enhanced"
    ATA_NORMAL = "ata-secure-erase"
    DISCARD = "discard"
    ZERO = "zero"


class Abilities(Value, frozen=True, kw_only=True):
    """What a drive says that it can. Of `ways`, discard only says that it takes one."""

    ways: tuple[Way, ...] = (Way.ZERO,)
    zeros_after_discard: bool = False
    obstacles: tuple[str, ...] = ()
    """Why something stronger is impossible here, for a person."""
    minutes: int | None = None
    """What the drive thinks that its own erasing takes."""


class PlannedWipe(Value, frozen=True, kw_only=True):
    """One disk of the plan. `zeros`: afterwards all of it reads as zeros."""

    drive: Drive
    way: Way
    zeros: bool
    minutes: int | None = None
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        return f"wipe {self.drive.path} by {self.way.value}"


class WipePlan(Value, frozen=True, kw_only=True):
    disks: Annotated[tuple[PlannedWipe, ...], msgspec.Meta(min_length=1)]
    method: WipeMethod
    verify: str
    consented: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(encode(self)).hexdigest()


class Verified(Value, frozen=True, kw_only=True):
    """What was read back. `zeros`: each byte read was zero; else: no piece read as before."""

    mode: str
    pieces: int
    read_bytes: int
    zeros: bool
    comparable_pieces: int | None = None
    """How many held something before that could have been known again; None: not compared."""


class WipedDisk(Value, frozen=True, kw_only=True):
    """One disk on the certificate."""

    identity: str
    path: str
    serial: str | None
    wwn: str | None
    model: str | None
    vendor: str | None
    transport: str
    size_bytes: int
    sector_bytes: int
    method: Way
    started_at: str
    ended_at: str
    verified: Verified | None
    """None: the job asked for no verification."""


class Certificate(Value, frozen=True, kw_only=True):
    """Who wiped what, how, when, and what was looked at afterwards. Not signed."""

    format: int = 1
    job: str
    agent_version: str
    machine: Board
    asked: WipeMethod
    disks: tuple[WipedDisk, ...]
