"""A job: one thing that one machine must do once. The wire between agent and server."""

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from agent.model.event import Failure, Progress
from agent.model.hwraid import HardwareRaid
from agent.model.inventory import Inventory
from agent.model.keys import DiskKey
from agent.model.mirror import Mirror
from agent.model.nodes import NodeId
from agent.model.storage import Shape, WantedLayout
from agent.model.template import Digest, TemplateName
from agent.model.wipe import WipeMethod
from agent.model.wire import Value

MachineId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{2}(-[0-9a-f]{2}){5}$(?!\n)")]
"""A machine is named by the MAC it boots from: `52-54-00-12-34-56`. A name, never a credential."""

JobId = Annotated[str, msgspec.Meta(pattern=r"^j-[0-9a-f]{12}$(?!\n)")]
AgentId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
"""128 random bits that an agent makes when it starts: knowing them is being that agent."""
Nonce = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
"""128 random bits that stand for one request."""
KeyName = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-F]{1,16}$(?!\n)")]
"""The id of a signing key, as minisign shows it."""

TemplateRef = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9]+(?:[._/-][a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?$(?!\n)",
        max_length=330,
    ),
]
"""`debian-13`, `debian-13:2026-11`, `debian-13@sha256:…`."""

Hostname = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$(?!\n)"
    ),
]
AuthorizedKey = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521)|sk-[a-z0-9@.-]+)"
        r" [A-Za-z0-9+/=]{32,2048}(?: [ -~]{0,200})?$(?!\n)"
    ),
]
Word = Annotated[str, msgspec.Meta(pattern=r"^[ -~]{1,256}$(?!\n)")]
"""Printable ASCII on one line."""


class DiskHints(Value, frozen=True, kw_only=True):
    """What the wanted disk is like; every hint given must match. The names are Ironic's.

    `size` is `>=100GiB`, `<=2TiB`, `==480GB`, `<range-in> [ 100 200 ]` or a bare number of GiB.
    Text is `TEXT`, `<in> PART`, `s== TEXT`, `s!= TEXT`, `<or> A <or> B` or `<all-in> A B`. A disk
    that can be pulled out is only meant by its whole serial, wwn or by_path.
    """

    name: Word | None = None
    serial: Word | None = None
    wwn: Word | None = None
    model: Word | None = None
    vendor: Word | None = None
    hctl: Word | None = None
    by_path: Word | None = None
    transport: Word | None = None
    size: Word | None = None
    rotational: bool | None = None


class Verify(StrEnum):
    """How much of the written disk is read back before the commit."""

    NONE = "none"
    SAMPLE = "sample"
    FULL = "full"


class Finish(StrEnum):
    """What the agent does when the job is done."""

    REBOOT = "reboot"
    POWEROFF = "poweroff"
    STAY = "stay"


class Identity(Value, frozen=True, kw_only=True):
    """What makes the deployed system that machine's own. Absent means: made anew or unchanged."""

    hostname: Hostname | None = None
    authorized_keys: tuple[AuthorizedKey, ...] = ()
    """For root, in place of those in the template."""


class DeploySpec(Value, frozen=True, kw_only=True, tag="deploy", tag_field="kind"):
    template: TemplateRef
    disk: DiskHints = DiskHints()
    disks: dict[NodeId, DiskHints] | None = None
    """The disk for each role, an id in the layout: `disk0`, `disk1`. In place of `disk`."""
    hardware_raid: HardwareRaid | None = None
    """Volumes that a RAID controller is to have before disks are chosen."""
    network: dict[str, Any] | None = None
    """network-config v2; absent means DHCP on the interface that booted."""
    identity: Identity = Identity()
    grow: str | None = "/"
    """Which mount point gets the rest of a bigger disk; null leaves it free."""
    layout: WantedLayout = Shape.SAME
    """The template's own, one by name, or a storage configuration."""
    consent: tuple[Word, ...] = ()
    """Valuable things on the target that may be destroyed: `LVM2_member`, `crypto_LUKS`, …"""
    verify: Verify = Verify.SAMPLE
    keys: tuple[DiskKey, ...] = ()
    """What the encrypted volumes of the target are opened with from now on."""
    finish: Finish = Finish.REBOOT

    def __post_init__(self) -> None:
        made = self.hardware_raid.volumes if self.hardware_raid else ()
        named = self.disks is not None or any(volume.role for volume in made)
        if named and self.disk != DiskHints():
            raise ValueError("say `disk`, or `disks` and roles of volumes: one of them")


class CaptureSpec(Value, frozen=True, kw_only=True, tag="capture", tag_field="kind"):
    name: TemplateName
    disk: DiskHints = DiskHints()
    disks: tuple[DiskHints, ...] = ()
    """Several, in the order of the roles that they get: `disk0`, `disk1`. In place of `disk`."""
    level: Annotated[int, msgspec.Meta(ge=1, le=19)] | None = None
    """zstd level; absent means: as the upload and the processors allow, 3 or more."""
    parent: TemplateRef | None = None
    """A template of the same name: only what differs from it is uploaded."""
    keep_identity: bool = False
    """Keep SSH host keys and other files of the redaction list in the template."""
    damaged: bool = False
    """What cannot be read on the disk may become zeros; absent means: a bad sector is an error."""
    keys: tuple[DiskKey, ...] = ()
    """What opens the encrypted volumes of the source."""
    finish: Finish = Finish.POWEROFF

    def __post_init__(self) -> None:
        if self.disks and self.disk != DiskHints():
            raise ValueError("say `disk` or `disks`, one of them")
        if self.parent and self.parent.partition("@")[0].partition(":")[0] != self.name:
            raise ValueError(f"parent {self.parent!r} is not a template called {self.name!r}")

    @property
    def parent_reference(self) -> str:
        """Which manifest of that name the parent is: its digest if it was given, else its tag."""
        tagged, _, digest = (self.parent or "").partition("@")
        return digest or tagged.partition(":")[2] or "latest"


class WipeSpec(Value, frozen=True, kw_only=True, tag="wipe", tag_field="kind"):
    """Destroy all data on disks that are named, or on all fixed disks if that is said."""

    disks: tuple[DiskHints, ...] = ()
    """Each of these must mean exactly one disk."""
    all_fixed: bool = False
    """In place of `disks`: every disk that is not USB, removable, virtual media or read-only."""
    method: WipeMethod = WipeMethod.AUTO
    verify: Verify = Verify.SAMPLE
    consent: tuple[Word, ...] = ()
    """As of a deployment."""
    finish: Finish = Finish.POWEROFF

    def __post_init__(self) -> None:
        if bool(self.disks) == self.all_fixed:
            raise ValueError("say which disks: either `disks` or `all_fixed`")
        if DiskHints() in self.disks:
            raise ValueError("disks: a disk without any hint is none that was named")


class InspectSpec(Value, frozen=True, kw_only=True, tag="inspect", tag_field="kind"):
    finish: Finish = Finish.STAY


JobSpec = DeploySpec | CaptureSpec | WipeSpec | InspectSpec


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Job(Value, frozen=True, kw_only=True):
    """A job as the server keeps it and shows it."""

    id: JobId
    machine: MachineId
    spec: JobSpec
    state: JobState
    fence: int
    """Counts claims. Only the agent that holds the newest may act."""
    template_digest: Digest | None
    """Deploy: the manifest, fixed when the job is created. Capture: what was made."""
    created_at: str
    started_at: str | None = None
    ended_at: str | None = None
    step: str | None = None
    progress: Progress | None = None
    failure: Failure | None = None
    heard_at: str | None = None
    """When its agent last gave word, while the job is running."""


class JobRequest(Value, frozen=True, kw_only=True):
    """What an operator posts to make a job."""

    machine: MachineId
    spec: JobSpec


class ImageKeys(Value, frozen=True, kw_only=True):
    """The ids of the public keys in an agent's image, as minisign shows them.

    None of one kind: that agent takes unsigned templates, or jobs from any server.
    """

    templates: tuple[KeyName, ...]
    server: tuple[KeyName, ...]


class Machine(Value, frozen=True, kw_only=True):
    id: MachineId
    uuid: str | None
    name: str | None
    first_seen_at: str
    last_seen_at: str
    firmware: str | None
    inventory_at: str | None
    job: JobId | None
    """The job that is queued or running, else the newest that ended."""
    trouble: str | None = None
    """What its agent said when it last came: why it cannot work. None: it can."""
    keys: ImageKeys | None = None
    """Whom its agent trusts; None until one has said so."""


class Hello(Value, frozen=True, kw_only=True):
    """An agent introduces itself: `POST /api/v1/agents/hello`. Answers with HelloAnswer."""

    agent: AgentId
    version: str
    macs: tuple[MachineId, ...]
    """The MAC that booted first."""
    uuid: str | None
    inventory: Inventory
    trouble: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    """Why the agent cannot ask for a job: a kernel argument that it does not know, say."""
    keys: ImageKeys | None = None
    """Whom the agent trusts; None if it cannot work."""


class HelloAnswer(Value, frozen=True, kw_only=True):
    machine: MachineId
    server_time: str


class ClaimRequest(Value, frozen=True, kw_only=True):
    """`POST /api/v1/machines/{machine}/claim?wait=SECONDS`.

    200 SignedClaim · 204 no job yet · 409 another agent holds the job (Retry-After says how long).
    """

    agent: AgentId
    nonce: Nonce
    """Random, of this very request: an answer to another one is not taken for its answer."""


class Claim(Value, frozen=True, kw_only=True):
    """The one time that a job's token crosses the wire. The same agent may ask again.

    `agent` and `nonce` are those of the request that this answers; `server_time` is when.
    """

    job: Job
    agent: AgentId
    nonce: Nonce
    token: str
    lease_s: int
    """Without an event in this time, the server takes the agent for dead."""
    expires_at: str
    repository: TemplateName
    """Under the server's /v2/: where to pull from or push to."""
    server_time: str
    mirrors: tuple[Mirror, ...] = ()
    """Deploy: where else the template can be read."""


class SignedClaim(Value, frozen=True, kw_only=True):
    """A Claim as it crosses the wire: its exact text, and a minisign signature of that text."""

    document: Annotated[str, msgspec.Meta(max_length=4 * 1024 * 1024)]
    """A Claim, as JSON. Nothing in it is read before the signature was found good."""
    signature: Annotated[str, msgspec.Meta(max_length=4096)]
    """What `metalcast serve` signed with its own key: the four lines of a `.minisig` file."""


class EventsAnswer(Value, frozen=True, kw_only=True):
    """What `POST …/events` answers: the newest sequence that is kept, and the lease, renewed."""

    sequence: int
    lease_s: int


PassCode = Annotated[str, msgspec.Meta(pattern=r"^[a-z2-7]{4}(-[a-z2-7]{4}){3}$(?!\n)")]
"""80 random bits that a person can type. Good once, for one template's name, for a while."""


class PassRequest(Value, frozen=True, kw_only=True):
    """What an operator posts so that a technician may capture one machine."""

    name: TemplateName
    minutes: Annotated[int, msgspec.Meta(ge=1, le=7 * 24 * 60)] = 120


class Pass(Value, frozen=True, kw_only=True):
    code: PassCode
    name: TemplateName
    expires_at: str


class Redemption(Value, frozen=True, kw_only=True):
    """`POST /api/v1/passes/redeem`, without a token. Answers with SignedClaim; the pass is
    spent."""

    code: PassCode
    machine: MachineId
    agent: AgentId
    nonce: Nonce
    spec: CaptureSpec
