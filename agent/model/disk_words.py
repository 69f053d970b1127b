"""A hint for one of several disks, as a person types it: `disk1:serial=XYZ`."""

import re
from collections.abc import Iterable
from typing import Any, Final

from agent.errors import UsageError
from agent.model.job import DiskHints

_WORD: Final = re.compile(r"([a-z][a-z0-9-]{0,63}):([a-z_-]+)=(.+)", re.DOTALL)
_YES: Final = {"yes": True, "true": True, "no": False, "false": False}


def parse_role_hints(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the hints of each role, in the order in which roles come first.

    Raises UsageError for a word of another form, an unknown hint and one given twice.
    """
    roles: dict[str, dict[str, Any]] = {}
    for word in words:
        found = _WORD.fullmatch(word)
        name = found[2].replace("-", "_") if found else ""
        if not found or name not in DiskHints.__struct_fields__:
            raise UsageError(
                f"--disk {word!r} cannot be read",
                hint="write ROLE:HINT=VALUE, as disk1:serial=XYZ; a hint is one of "
                + ", ".join(DiskHints.__struct_fields__),
            )
        role, value = found[1], found[3]
        hints = roles.setdefault(role, {})
        if name in hints:
            raise UsageError(f"--disk: {name} of {role} is given twice")
        hints[name] = _YES.get(value.lower(), value) if name == "rotational" else value
    return roles
