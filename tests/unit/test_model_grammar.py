"""Values that reach scripts, command lines and files pass a strict grammar."""

import msgspec
import pytest

from agent.model import job, nodes, storage, template

GRAMMARS = {
    "MachineId": (job.MachineId, "52-54-00-12-34-56"),
    "JobId": (job.JobId, "j-0123456789ab"),
    "AgentId": (job.AgentId, "0" * 32),
    "TemplateRef": (job.TemplateRef, "debian-13:2026"),
    "Hostname": (job.Hostname, "web1.example"),
    "AuthorizedKey": (job.AuthorizedKey, "ssh-ed25519 " + "A" * 68 + " ada@example"),
    "Word": (job.Word, "QEMU HARDDISK"),
    "TemplateName": (template.TemplateName, "web/debian-13"),
    "Tag": (template.Tag, "2026-11"),
    "Digest": (template.Digest, "sha256:" + "0" * 64),
    "Hex": (template.Hex, "0" * 64),
    "NodeId": (nodes.NodeId, "disk0p1"),
    "Guid": (nodes.Guid, nodes.ESP_TYPE),
    "PartitionType": (nodes.PartitionType, "8e"),
    "PartitionUuid": (nodes.PartitionUuid, "0123abcd-05"),
    "VolumeName": (nodes.VolumeName, "vg-sys"),
    "MdUuid": (nodes.MdUuid, "00000000:11111111:22222222:33333333"),
    "LvmUuid": (nodes.LvmUuid, "abcdef-ghij-klmn-opqr-stuv-wxyz-012345"),
    "Size": (storage.Size, "20GiB"),
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_good_value_passes(name: str) -> None:
    kind, good = GRAMMARS[name]
    assert msgspec.convert(good, kind) == good


@pytest.mark.parametrize("tail", ["\n", "\r", "\0", "\t", "\u2028", "\nx", "\x1b[2J"])
@pytest.mark.parametrize("name", GRAMMARS)
def test_no_control_character_passes_at_either_end(name: str, tail: str) -> None:
    kind, good = GRAMMARS[name]
    for bad in (good + tail, tail + good):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, kind)
