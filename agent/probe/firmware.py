"""How the machine was started: BIOS or UEFI, with Secure Boot or without."""

from agent.model.inventory import SecureBoot
from agent.probe.tree import Tree

_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_ATTRIBUTE_BYTES = 4
"""efivarfs puts a variable's attributes before its value."""


def probe_firmware(tree: Tree) -> tuple[str, SecureBoot]:
    """Return `bios` or `uefi`, and the state of Secure Boot.

    Needs efivarfs mounted; without it Secure Boot reads as unsupported.
    """
    if not tree.exists("/sys/firmware/efi"):
        return "bios", SecureBoot.UNSUPPORTED
    enforced = _efi_byte(tree, "SecureBoot")
    if enforced is None:
        return "uefi", SecureBoot.UNSUPPORTED
    if enforced == 1:
        return "uefi", SecureBoot.ON
    return "uefi", SecureBoot.SETUP if _efi_byte(tree, "SetupMode") == 1 else SecureBoot.OFF


def _efi_byte(tree: Tree, name: str) -> int | None:
    data = tree.data(f"/sys/firmware/efi/efivars/{name}-{_GLOBAL}")
    return data[_ATTRIBUTE_BYTES] if data and len(data) == _ATTRIBUTE_BYTES + 1 else None
