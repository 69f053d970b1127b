"""Values of the API that only operators see. What agents see is in `agent.model`."""

from agent.model.layout import Bytes
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


class TemplateShown(Value, frozen=True, kw_only=True):
    """A template with all that was recorded of its source."""

    summary: TemplateSummary
    config: TemplateConfig
