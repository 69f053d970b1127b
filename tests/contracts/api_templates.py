"""A small but whole template, pushed to a server as an agent would."""

import hashlib
from typing import Any

import msgspec

from agent.model import layout, nodes, template
from agent.model.wire import encode
from agent.units import GiB, MiB
from tests.contracts.api_server import Api, make_inventory
from tests.unit.make_plan import make_partition

GUID = "0fc63daf-8483-4772-8e79-3d69d8477d{:02x}"


def make_config(name: str = "demo", **changes: Any) -> template.TemplateConfig:
    disk = nodes.Disk(
        id="disk0",
        size_bytes=3 * GiB,
        sector_bytes=512,
        physical_sector_bytes=512,
        table=nodes.Gpt(uuid=GUID.format(0)),
    )
    bios = _partition(1, 1 * MiB, 1 * MiB, nodes.BIOS_BOOT_TYPE, "bios")
    esp = _partition(2, 2 * MiB, 128 * MiB, nodes.ESP_TYPE, "esp")
    root = _partition(3, 130 * MiB, 2 * GiB, nodes.LINUX_TYPE, "root")
    swap = _partition(4, 130 * MiB + 2 * GiB, 512 * MiB, nodes.SWAP_TYPE, "swap")
    volumes = (
        _volume("core", bios, layout.Raw(), 90 * 1024, None),
        _volume("esp", esp, layout.Vfat(uuid="1234-ABCD", label="ESP"), 6 * MiB, "/boot/efi"),
        _volume(
            "root",
            root,
            layout.Ext(uuid=GUID.format(9), label="", block_bytes=4096, features=()),
            780 * MiB,
            "/",
        ),
        _volume("swap", swap, layout.Swap(uuid=None, label="", page_bytes=4096), 0, None),
    )
    values: dict[str, Any] = {
        "format": 1,
        "name": name,
        "captured_at": "2026-11-23T12:00:00Z",
        "captured_by": "metalcast 0.1.0",
        "firmware": template.Firmware.BIOS,
        "boots": (template.Firmware.BIOS, template.Firmware.UEFI),
        "os": template.OsIdentity(
            id="debian",
            version="12",
            pretty_name="Debian GNU/Linux 12 (bookworm)",
            kernel="6.1.0-28-amd64",
            bootloader="grub",
            initramfs_tool="initramfs-tools",
            network_stack=template.NetworkStack.IFUPDOWN,
        ),
        "source": make_inventory(),
        "layout": layout.Layout(nodes=(disk, bios, esp, root, swap), volumes=volumes),
        "redactions": (
            template.Redaction(volume="root", path="/etc/ssh/ssh_host_ed25519_key", bytes=411),
        ),
    }
    return template.TemplateConfig(**(values | changes))


def _partition(number: int, offset: int, size: int, kind: str, name: str) -> nodes.Partition:
    uuid = GUID.format(number)
    return make_partition(number, offset, size, type=kind, name=name, uuid=uuid)


def _volume(
    name: str, part: nodes.Partition, content: layout.Content, used: int, mount: str | None
) -> layout.Volume:
    return layout.Volume(
        id=name,
        on=part.id,
        content=content,
        size_bytes=part.size_bytes,
        used_bytes=used,
        minimum_bytes=used,
        mount=mount,
    )


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def push_blob(api: Api, name: str, data: bytes) -> template.Descriptor:
    path = f"/v2/{name}/blobs/uploads/?digest={digest_of(data)}"
    headers = {"Content-Type": "application/octet-stream"}
    answer = api.post(path, data, headers=headers)
    assert answer.status_code == 201, answer.text
    return template.Descriptor(
        media_type=template.CONFIG_TYPE, digest=digest_of(data), size=len(data)
    )


def push_template(api: Api, name: str = "demo", tag: str = "latest", **changes: Any) -> str:
    """Push a template and return the digest of its manifest."""
    config = push_blob(api, name, encode(make_config(name, **changes)))
    pack = msgspec.structs.replace(
        push_blob(api, name, b"a pack of " + name.encode()), media_type=template.PACK_TYPE
    )
    manifest = encode(
        template.Manifest(
            schema_version=2,
            media_type=template.MANIFEST_TYPE,
            artifact_type=template.ARTIFACT_TYPE,
            config=config,
            layers=(pack,),
        )
    )
    headers = {"Content-Type": template.MANIFEST_TYPE}
    answer = api.call("PUT", f"/v2/{name}/manifests/{tag}", manifest, headers=headers)
    assert answer.status_code == 201, answer.text
    return digest_of(manifest)
