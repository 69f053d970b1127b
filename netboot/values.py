"""Values of the API that only operators see. What agents see is in `agent.model`."""

from typing import Annotated

import msgspec

from agent.model.nodes import Bytes
from agent.model.template import Digest, Firmware, TemplateConfig, TemplateName
from agent.model.wire import Value


class TemplateSummary(Value, frozen=True, kw_only=True):
    """One tag of one template."""

    name: TemplateName
    tag: str
    """Empty when it was asked for by digest."""
    digest: Digest
    captured_at: str
    firmware: Firmware
    boots: tuple[Firmware, ...]
    os: str | None
    disk_bytes: Bytes
    """The size of the captured disks."""
    used_bytes: Bytes
    """The used data in its volumes."""
    stored_bytes: Bytes
    """What it takes in the store."""
    lost_bytes: Bytes = 0
    """What could not be read on the source and is zeros in the template."""


class GcRequest(Value, frozen=True, kw_only=True):
    """What an operator posts to have the store swept now."""

    dry_run: bool = False
    """Only say what would be freed."""
    grace_s: Annotated[int, msgspec.Meta(ge=600, le=31 * 86400)] = 3600
    """A repository to which something was pushed in this time keeps everything, and so does an
    upload that was gone on with: a copy may be under way."""


class GcReport(Value, frozen=True, kw_only=True):
    """What was freed, or would be."""

    dry_run: bool
    uploads: int
    blobs: int
    bytes: Bytes
    busy: tuple[str, ...]
    """Repositories that have more that nothing needs, but are at work."""


class TemplateShown(Value, frozen=True, kw_only=True):
    """A template with all that was recorded of its source."""

    summary: TemplateSummary
    config: TemplateConfig
