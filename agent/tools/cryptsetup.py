"""cryptsetup(8): LUKS headers read, containers opened, made and grown.

A key goes in by stdin, all bytes as they are: it is on no command line and in no log.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.errors import AgentError, CommandFailed, SourceUnfit
from agent.model.luks import data_offset_bytes
from agent.model.nodes import Luks, LuksKdf
from agent.system.command import Output, Runner
from agent.units import KiB, MiB

SECTOR_BYTES: Final = 512
"""cryptsetup counts in these, whatever the device's own sectors are."""
KDF_MEMORY_BYTES: Final = 256 * MiB
"""What opening a container that we made takes at most: a small machine has it, in its initramfs."""
KDF_TIME_MS: Final = 2000
GRUB_KDF_TIME_MS: Final = 1000
"""GRUB computes this about ten times as slowly as we do."""
KEY_BYTES_MAX: Final = 8 * MiB

_OPEN_TIMEOUT_S: Final = 300
_WRONG_KEY: Final = 2
_NO_MEMORY: Final = 3
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,126}")
_FIELD: Final = re.compile(r"([A-Z][A-Za-z0-9 -]*):\s*(.*)")
_SLOT: Final = re.compile(r"Key Slot \d+: ENABLED")
_BY_STDIN: Final = "--key-file=-"


class WrongKey(AgentError):
    """None of the device's key slots opens with the key that was given."""


@dataclass(frozen=True, slots=True)
class FoundLuks:
    """What a LUKS header says. `kdf` is that of the first slot that a passphrase can open."""

    version: int
    uuid: str
    label: str
    cipher: str
    key_bytes: int
    sector_bytes: int
    offset_bytes: int
    """Where the data begin."""
    keyslots: int
    """How many are in use."""
    kdf: LuksKdf
    kdf_memory_bytes: int
    """What the greediest slot takes to be opened."""
    tokens: tuple[str, ...] = ()
    """Their kinds: `systemd-tpm2`, `systemd-fido2`, `clevis`."""


def read_header(run: Runner, device: Path) -> FoundLuks:
    """Return what the LUKS header on `device` says. Opens it for reading only.

    Raises SourceUnfit for a container that we cannot copy the inside of, with every reason.
    """
    text = run(["cryptsetup", "luksDump", device]).text
    fields = _fields(text)
    if _word(fields, "Version") == "1":
        return parse_luks1(text, device)
    metadata = run(["cryptsetup", "luksDump", "--dump-json-metadata", device]).text
    return parse_luks2(text, metadata, device)


def parse_luks1(text: str, device: Path) -> FoundLuks:
    """Return the facts on luksDump's page for version 1."""
    fields = _fields(text)
    offset = _number(fields, "Payload offset") * SECTOR_BYTES
    if offset == 0:
        raise _unfit(device, ["its header is detached from its data"])
    mode = _word(fields, "Cipher mode")
    return FoundLuks(
        version=1,
        uuid=_word(fields, "UUID").lower(),
        label="",
        cipher=f"{_word(fields, 'Cipher name')}-{mode}",
        key_bytes=_number(fields, "MK bits") // 8,
        sector_bytes=SECTOR_BYTES,
        offset_bytes=offset,
        keyslots=len(_SLOT.findall(text)),
        kdf=LuksKdf.PBKDF2,
        kdf_memory_bytes=0,
    )


def parse_luks2(text: str, metadata: str, device: Path) -> FoundLuks:
    """Return the facts in version 2's JSON; UUID and label are only on luksDump's page `text`."""
    fields = _fields(text)
    label = _word(fields, "Label")
    try:
        document = json.loads(metadata)
        if reasons := list(_objections(document)):
            raise _unfit(device, reasons)
        (segment,) = document["segments"].values()
        slots = _slots(document)
        kdfs = [slot["kdf"] for slot in slots.values()]
        tokens = [str(token["type"])[:64] for token in document["tokens"].values()]
        by_token = {name for token in document["tokens"].values() for name in token["keyslots"]}
        typed = [slot["kdf"] for name, slot in slots.items() if name not in by_token]
        return FoundLuks(
            version=2,
            uuid=_word(fields, "UUID").lower(),
            label="" if label == "(no label)" else label,
            cipher=str(segment["encryption"]),
            key_bytes=int(next(iter(slots.values()))["key_size"]),
            sector_bytes=int(segment["sector_size"]),
            offset_bytes=int(segment["offset"]),
            keyslots=len(slots),
            kdf=LuksKdf((typed or kdfs)[0]["type"]),
            kdf_memory_bytes=max((int(kdf.get("memory", 0)) for kdf in kdfs), default=0) * KiB,
            tokens=tuple(dict.fromkeys(tokens)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AgentError(f"cannot read cryptsetup's description of {device}: {error!r}") from error


def _slots(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the slots that hold the key of the data; others may hold keys of something else."""
    names = [
        name
        for digest in document["digests"].values()
        if digest["segments"]
        for name in digest["keyslots"]
    ]
    return {name: document["keyslots"][name] for name in sorted(names, key=int)}


def _objections(document: Mapping[str, Any]) -> Iterator[str]:
    segments = list(document["segments"].values())
    slots = document["keyslots"].values()
    required = list(document["config"].get("requirements", {}).get("mandatory", []))
    reencrypts = [word for word in required if word.startswith("online-reencrypt")]
    if reencrypts or any(slot["type"] == "reencrypt" for slot in slots):
        yield "it is being re-encrypted"
        return
    if other := [str(word)[:40] for word in required]:
        yield f"it requires {', '.join(other)}, which we do not know"
    if any("integrity" in segment for segment in segments):
        yield "it has integrity tags (dm-integrity)"
    if any(str(segment["type"]).startswith("hw-opal") for segment in segments):
        yield "the drive itself encrypts it (OPAL)"
    elif len(segments) != 1 or segments[0]["type"] != "crypt":
        kinds = ", ".join(str(segment["type"])[:40] for segment in segments) or "none"
        yield f"its segments are {kinds}: one of kind crypt is expected"
    elif int(segments[0]["offset"]) == 0:
        yield "its header is detached from its data"
    elif segments[0]["size"] != "dynamic":
        yield f"its segment has a fixed size, {segments[0]['size']} bytes"
    elif int(segments[0].get("iv_tweak", 0)) != 0:
        yield "its segment has an IV that does not begin at 0"
    if not _slots(document):
        yield "it has no key slot: nothing opens it"


def open_read_only(run: Runner, device: Path, name: str, key: bytes) -> Path:
    """Open `device`, which may be write-protected, for reading; return the mapped device.

    Nothing on the device changes. Raises WrongKey.
    """
    return _open(run, device, name, key, ["--readonly"])


def open_luks(run: Runner, device: Path, name: str, key: bytes) -> Path:
    """Open `device` for reading and writing; return the mapped device. Raises WrongKey."""
    return _open(run, device, name, key, [])


def _open(run: Runner, device: Path, name: str, key: bytes, options: Sequence[str]) -> Path:
    words: list[str | Path] = [
        "cryptsetup",
        "open",
        "--type=luks",
        *options,
        _BY_STDIN,
        device,
        _checked(name),
    ]
    _try(run, words, device, key)
    return Path("/dev/mapper") / name


def test_key(run: Runner, device: Path, key: bytes) -> bool:
    """Return whether `key` opens `device`; nothing is mapped."""
    words: list[str | Path] = [
        "cryptsetup",
        "open",
        "--type=luks",
        "--test-passphrase",
        _BY_STDIN,
        device,
    ]
    try:
        _try(run, words, device, key)
    except WrongKey:
        return False
    return True


def close_luks(run: Runner, name: str) -> None:
    """Take the mapping `name` away. Raises CommandFailed while something uses it."""
    run(["cryptsetup", "close", _checked(name)])


def make_luks(run: Runner, luks: Luks, device: Path, key: bytes) -> None:
    """Make a container like `luks` on `device`, opened by `key`. Its master key is a new one.

    What the device held is lost. The data begin where the source's did, so that a device of the
    same size has the same room inside.
    """
    _check_key(key)
    run(format_words(luks, device), stdin=key, timeout_s=_OPEN_TIMEOUT_S)


def format_words(luks: Luks, device: Path) -> list[str | Path]:
    """Return the command that makes `luks`, which reads the key from its stdin."""
    words: list[str | Path] = [
        "cryptsetup",
        "luksFormat",
        "--batch-mode",
        f"--type=luks{luks.version}",
        f"--cipher={luks.cipher}",
        f"--key-size={luks.key_bytes * 8}",
        f"--uuid={luks.uuid}",
        f"--offset={data_offset_bytes(luks) // SECTOR_BYTES}",
    ]
    if luks.version == 2:
        words.append(f"--sector-size={luks.sector_bytes}")
        if luks.label:
            words.append(f"--label={luks.label}")
        words.append(f"--pbkdf={luks.kdf.value}")
    if luks.version == 2 and luks.kdf is not LuksKdf.PBKDF2:
        words += [f"--pbkdf-memory={KDF_MEMORY_BYTES // KiB}", f"--iter-time={KDF_TIME_MS}"]
    else:
        # what GRUB can open
        words += ["--hash=sha256", f"--iter-time={GRUB_KDF_TIME_MS}"]
    return [*words, _BY_STDIN, device]


def _try(run: Runner, words: Sequence[str | Path], device: Path, key: bytes) -> Output:
    _check_key(key)
    output = run(words, stdin=key, timeout_s=_OPEN_TIMEOUT_S, ok=(0, _WRONG_KEY, _NO_MEMORY))
    if output.status == _WRONG_KEY:
        uuid = run(["cryptsetup", "luksUUID", device], ok=(0, 1)).text.strip() or "?"
        raise WrongKey(
            f"the key that was given does not open the LUKS container {uuid} on {device}",
            hint=f"give the job its key: keys: [{{device: {uuid}, passphrase: …}}]",
        )
    if output.status == _NO_MEMORY:
        raise CommandFailed(
            f"opening {device} takes more memory than this machine has",
            hint="add a key slot that takes less: cryptsetup luksAddKey --pbkdf-memory 262144",
        )
    return output


def _check_key(key: bytes) -> None:
    if not key:
        raise AgentError("the key of a LUKS container is empty")
    if len(key) > KEY_BYTES_MAX:
        raise AgentError(f"the key of a LUKS container has more than {KEY_BYTES_MAX} bytes")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name for a mapping: {name!r}")
    return name


def _unfit(device: Path, reasons: Sequence[str]) -> SourceUnfit:
    return SourceUnfit(
        tuple(f"the LUKS container on {device} cannot be captured: {why}" for why in reasons),
        hint="finish with `cryptsetup reencrypt`"
        if "it is being re-encrypted" in reasons
        else None,
    )


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if found := _FIELD.fullmatch(line):
            fields.setdefault(found[1], found[2].strip())
    return fields


def _word(fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise AgentError(f"cryptsetup says nothing of {name!r}: is this a LUKS container?")
    return fields[name]


def _number(fields: Mapping[str, str], name: str) -> int:
    text = _word(fields, name)
    if not text.isdigit():
        raise AgentError(f"cryptsetup gives {text[:40]!r} for {name!r}: expected a number")
    return int(text)
