"""iPXE scripts. Pure: values that passed a strict grammar in, text out.

Nothing is ever escaped here: a value that could mean something to iPXE does not get in.
"""

import re
from typing import Final

import jinja2

from agent.model.places import find_templates
from netboot.grammar import JOB, MACHINE, URL, WORD

TEMPLATES: Final = find_templates() / "ipxe"

ARCHITECTURES: Final = ("x86_64", "i386")
"""i386 is what a BIOS build of iPXE says of itself; the machine may well be a 64-bit one."""
CONSOLES: Final = ("console=tty0", "console=ttyS0,115200")

_ENVIRONMENT: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 - not HTML; every value passes a grammar
)


def render_boot() -> str:
    """Return the script that every machine loads first: it asks again with the machine's name."""
    return _ENVIRONMENT.get_template("boot.ipxe.j2").render()


def render_agent(
    machine: str, server: str, job: str | None = None, extra: tuple[str, ...] = ()
) -> str:
    """Return the script that boots the agent. Raises ValueError for a value of bad grammar."""
    _demand(MACHINE, machine)
    _demand(URL, server)
    for word in extra:
        _demand(WORD, word)
    if job is not None:
        _demand(JOB, job)
    words = (
        "initrd=initrd.img",
        f"BOOTIF=01-{machine}",
        f"metalcast.server={server}",
        *(() if any(word.startswith("console=") for word in extra) else CONSOLES),
        *extra,
    )
    template = _ENVIRONMENT.get_template("agent.ipxe.j2")
    return template.render(
        machine=machine, server=server, job=job or "none yet", arguments=" ".join(words)
    )


def render_disk(machine: str, reason: str) -> str:
    """Return the script that hands over to the machine's own disk."""
    _demand(MACHINE, machine)
    _demand(re.compile(r"[a-z0-9 -]{1,80}"), reason)
    return _ENVIRONMENT.get_template("disk.ipxe.j2").render(machine=machine, reason=reason)


def _demand(grammar: re.Pattern[str], value: str) -> None:
    if not grammar.fullmatch(value):
        raise ValueError(f"not fit for a boot script: {value[:80]!a}")
