"""The kernel command line, read strictly: /proc/cmdline → `BootArgs`.

`metalcast.*` arguments are ours and an unknown one is an error; `ip=`, `BOOTIF=`, `vlan=`,
`bond=`, `nameserver=` and `console=` keep the meaning that the kernel and dracut gave them.
Everything else belongs to others and is left alone. No secret is ever taken from here: the
command line is on every console, in every log, and readable by every program.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.errors import AgentError, UsageError
from agent.model.job import DiskHints, Finish, Hostname, TemplateRef, Verify, Word
from agent.model.template import TemplateName
from agent.model.wire import convert
from agent.system.cmdline_network import (
    Bond,
    IpSetting,
    Vlan,
    parse_bond,
    parse_bootif,
    parse_ip,
    parse_nameserver,
    parse_vlan,
)

CMDLINE: Final = Path("/proc/cmdline")
MODES: Final = ("job", "rescue", "capture", "deploy", "inspect", "shell")
ON_ERROR: Final = ("stay", "reboot", "poweroff", "shell")

_PREFIX: Final = "metalcast."
_URL: Final = re.compile(
    r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[\w./~-]*)?"
)
_SECRETIVE: Final = re.compile(r"(?i)token|secret|passw|passphrase|credential|api_?key|private")
_CONSOLE: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9]{0,15}(?:,[0-9a-z]{1,12})?")
_BOOLEANS: Final = {"yes": True, "no": False, "1": True, "0": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class BootArgs:
    """What the machine was told on its kernel command line. None: not said."""

    server: str | None = None
    mode: str = "job"
    store: str | None = None
    name: str | None = None
    template: str | None = None
    disk: DiskHints = field(default_factory=DiskHints)
    hostname: str | None = None
    consent: tuple[str, ...] = ()
    grow: str | None = None
    verify: Verify | None = None
    level: int | None = None
    parent: str | None = None
    accept_damage: bool = False
    lldp_seconds: int = 0
    settle_seconds: int = 60
    """Init reads this one itself."""
    finish: Finish | None = None
    on_error: str = "stay"
    yes: bool = False
    ip: tuple[IpSetting, ...] = ()
    bootif: str | None = None
    """The MAC that the machine was booted from; lower case, colons."""
    vlans: tuple[Vlan, ...] = ()
    bonds: tuple[Bond, ...] = ()
    nameservers: tuple[str, ...] = ()
    consoles: tuple[str, ...] = ()
    """As the kernel was told: `ttyS0,115200`. The last one is /dev/console."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of ours: its name without `metalcast.`, what it takes, what it means."""

    name: str
    takes: str
    meaning: str
    parse: Callable[[str], Any]
    key: str = ""
    """The field of BootArgs, or of DiskHints for `disk.*`, if the name does not say it."""
    repeats: bool = False

    @property
    def field(self) -> str:
        return self.key or self.name.removeprefix("disk.").replace("-", "_")


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return text

    return parse


def _typed(kind: Any) -> Callable[[str], Any]:
    """Return a parser by the grammar that the value has in agent.model."""

    def parse(text: str) -> Any:
        return msgspec.convert(text, type=kind, strict=False)

    return parse


def _url(text: str) -> str:
    if not _URL.fullmatch(text) or ".." in text:
        raise ValueError("expected http://HOST[:PORT], without user, password or query")
    return text.rstrip("/")


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError("expected yes or no")
    return _BOOLEANS[text.lower()]


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise ValueError(f"expected a number from {low} to {high}")
        return int(text)

    return parse


def _mount(text: str) -> str:
    if not re.fullmatch(r"/[\w./-]*", text, re.ASCII) or ".." in text:
        raise ValueError("expected a mount point such as / or /var")
    return text


_word = _typed(Word)

ARGUMENTS: Final = (
    Argument("server", "URL", "The `metalcast serve` that has the jobs (and, unless "
             "`store` says otherwise, the templates).", _url),
    Argument("mode", "|".join(MODES), "What to do: `job` asks the server (the default); `rescue` "
             "asks the person at the console; `capture`, `deploy` and `inspect` do just that "
             "with the arguments below; `shell` opens a shell.", _one_of(*MODES)),
    Argument("store", "URL", "The registry that holds templates, if it is not the server.", _url),
    Argument("name", "NAME", "capture: the template's name.", _typed(TemplateName)),
    Argument("template", "NAME[:TAG][@DIGEST]", "deploy: which template.", _typed(TemplateRef)),
    Argument("disk.serial", "TEXT", "The disk with this serial number.", _word),
    Argument("disk.wwn", "TEXT", "The disk with this world-wide name.", _word),
    Argument("disk.by_path", "TEXT", "The disk in this slot, a name below /dev/disk/by-path/.",
             _word),
    Argument("disk.hctl", "H:C:T:L", "The disk at this SCSI address.", _word),
    Argument("disk.model", "TEXT", "The disk of this model; `<in> TEXT` if it contains TEXT.",
             _word),
    Argument("disk.vendor", "TEXT", "The disk of this maker.", _word),
    Argument("disk.size", "SIZE", "The disk of this size: `>=100GiB`, `<=2TiB`, `==480GB` "
             "(within 1 %), or whole GiB.", _word),
    Argument("disk.transport", "WORD", "The disk attached by `sata`, `sas`, `nvme`, `raid`, "
             "`virtio`, `usb`, …", _word),
    Argument("disk.rotational", "yes|no", "Only hard disks, or only flash.", _boolean),
    Argument("disk.name", "NAME", "The disk that the kernel calls so today; the weakest hint.",
             _word),
    Argument("hostname", "NAME", "deploy: the host name of the deployed system.",
             _typed(Hostname)),
    Argument("consent", "WORD[,WORD]", "deploy: what on the target may be destroyed, by the names "
             "that the refusal lists.",
             lambda text: tuple(_word(word) for word in text.split(",")), repeats=True),
    Argument("grow", "MOUNT", "deploy: which filesystem gets the rest of a larger disk.", _mount),
    Argument("verify", "none|sample|full", "deploy: how much is read back before the disk is made "
             "bootable.", Verify),
    Argument("level", "1..19", "capture: zstd level; unless told, 3 or more as the upload "
             "allows.", _number(1, 19)),
    Argument("parent", "NAME[:TAG][@DIGEST]", "capture: a template of the same name; only what "
             "differs from it is uploaded.", _typed(TemplateRef)),
    Argument("accept_damage", "yes|no", "capture: store what cannot be read on the disk as zeros, "
             "and record that in the template; unless told, a bad sector is an error.", _boolean),
    Argument("lldp", "SECONDS", "Listen that long for switches (they speak every 30 s).",
             _number(0, 120), key="lldp_seconds"),
    Argument("finish", "reboot|poweroff|stay", "What to do after success.", Finish),
    Argument("on_error", "|".join(ON_ERROR), "What to do after failure; `stay` (the default) keeps "
             "the message on the console.", _one_of(*ON_ERROR)),
    Argument("settle", "SECONDS", "How long the image's init waits for drivers before the agent "
             "begins; 60 unless told.", _number(1, 600), key="settle_seconds"),
    Argument("yes", "yes|no", "Do not ask for confirmation in rescue mode.", _boolean),
)  # fmt: skip
"""Every argument of ours. docs/kernel-arguments.md is rendered from this."""

_STANDARD: Final = (
    ("ip=", "dhcp, DEVICE:dhcp, or CLIENT::GATEWAY:NETMASK:HOSTNAME:DEVICE:none[:DNS[:DNS]]",
     "How the interface gets its address; as in the kernel's nfsroot and dracut.cmdline(7)."),
    ("BOOTIF=", "01-MAC", "The interface that the firmware booted from; iPXE and PXELINUX set it. "
     "It is tried first."),
    ("vlan=", "NAME:PARENT", "A tagged network on PARENT: `vlan=eth0.42:eth0`."),
    ("bond=", "NAME[:PORT,PORT[:OPTIONS[:MTU]]]", "Several interfaces as one: "
     "`bond=bond0:eth0,eth1:mode=802.3ad,miimon=100`."),
    ("nameserver=", "ADDRESS", "A name server; may be given several times."),
    ("console=", "NAME[,OPTIONS]", "Where messages and questions appear; each one given is used."),
)  # fmt: skip


def probe_bootargs(path: Path = CMDLINE) -> BootArgs:
    """Return the arguments that this machine was started with."""
    return parse_bootargs(path.read_text(encoding="utf-8", errors="replace"))


def parse_bootargs(cmdline: str) -> BootArgs:
    """Return the arguments in `cmdline`.

    Raises UsageError, naming the argument, for an unknown one of ours, one given twice, a value
    outside its grammar, and anything that looks like a secret.
    """
    args = BootArgs(**_parse_standard(cmdline))
    known = {argument.name: argument for argument in ARGUMENTS}
    values: dict[str, Any] = {}
    hints: dict[str, Any] = {}
    for word in split_cmdline(cmdline):
        key, equals, text = word.partition("=")
        if not key.startswith(_PREFIX):
            continue
        name = key.removeprefix(_PREFIX)
        _refuse_secret(key, name)
        argument = known.get(name)
        if argument is None:
            raise _unknown(key, known)
        if not equals and argument.parse is not _boolean:
            raise UsageError(f"{key} needs a value: {key}={argument.takes}")
        value = _parsed(key, argument, text if equals else "yes")
        into = hints if name.startswith("disk.") else values
        if argument.field in into and not argument.repeats:
            raise UsageError(f"{key} is given twice")
        before = into.get(argument.field, ())
        into[argument.field] = before + value if argument.repeats else value
    return replace(args, disk=convert(hints, DiskHints, "metalcast.disk"), **values)


def split_cmdline(cmdline: str) -> Iterator[str]:
    """Yield the words of a kernel command line, double quotes removed as the kernel does it.

    What follows ` -- ` is for init, not for us.
    """
    for found in re.finditer(r'(?:[^\s"]|"[^"]*"?)+', cmdline):
        word = found[0]
        if word == "--":
            return
        yield word.replace('"', "")


def render_arguments() -> str:
    """Return the tables of docs/kernel-arguments.md."""
    ours = [f"| `{_PREFIX}{a.name}=` | {_cell(a.takes)} | {_cell(a.meaning)} |" for a in ARGUMENTS]
    others = [f"| `{name}` | {_cell(takes)} | {_cell(text)} |" for name, takes, text in _STANDARD]
    head = ["| argument | takes | meaning |", "|---|---|---|"]
    return "\n".join(
        ["## Ours", "", *head, *ours, "", "## Known from elsewhere", "", *head, *others, ""]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _parsed(key: str, argument: Argument, text: str) -> Any:
    try:
        return argument.parse(text)
    except (ValueError, msgspec.ValidationError) as error:
        shown = key if "@" in text else f"{key}={text!r}"  # a password may stand before the @
        raise UsageError(
            f"{shown} cannot be read: expected {argument.takes}", hint=str(error)
        ) from error


def _unknown(key: str, known: Mapping[str, Argument]) -> AgentError:
    near = difflib.get_close_matches(key.removeprefix(_PREFIX), known, n=1, cutoff=0.5)
    hint = f"did you mean {_PREFIX}{near[0]}=?" if near else "docs/kernel-arguments.md lists all"
    return UsageError(f"unknown kernel argument {key}", hint=hint)


def _refuse_secret(key: str, name: str) -> None:
    if _SECRETIVE.search(name):
        raise UsageError(
            f"{key}: no secret on the kernel command line",
            hint="the agent gets its token from the server, or asks for it at the console",
        )


def _parse_standard(cmdline: str) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    parsers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "ip": ("ip", parse_ip),
        "BOOTIF": ("bootif", parse_bootif),
        "vlan": ("vlans", parse_vlan),
        "bond": ("bonds", parse_bond),
        "nameserver": ("nameservers", parse_nameserver),
        "console": ("consoles", _console),
    }
    for word in split_cmdline(cmdline):
        key, equals, text = word.partition("=")
        if key in parsers and equals:
            name, parse = parsers[key]
            try:
                found.setdefault(name, []).append(parse(text))
            except ValueError as error:
                raise UsageError(f"{key}={text!r} cannot be read: {error}") from error
    bootif = found.pop("bootif", [None])
    values: dict[str, Any] = {name: tuple(dict.fromkeys(some)) for name, some in found.items()}
    return {**values, "bootif": bootif[-1]}


def _console(text: str) -> str:
    if not _CONSOLE.fullmatch(text):
        raise ValueError("expected a name such as tty0 or ttyS0,115200")
    return text
