"""The strict grammar of what may reach a boot script or a kernel's command line."""

import re
from typing import Final

from agent.errors import UsageError

MACHINE: Final = re.compile(r"[0-9a-f]{2}(-[0-9a-f]{2}){5}")
JOB: Final = re.compile(r"j-[0-9a-f]{12}")
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HOST: Final = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:]{2,39}\])(?::[1-9][0-9]{0,4})?"
)
URL: Final = re.compile(rf"https?://{HOST.pattern}(?:/[A-Za-z0-9._~/-]{{0,200}})?")
WORD: Final = re.compile(r"[A-Za-z0-9._,:=/@+-]{1,256}")


def parse_word(text: str) -> str:
    """Return `text` if it can be one kernel argument. Raises UsageError."""
    if not WORD.fullmatch(text):
        raise UsageError(
            f"not a kernel argument: {text[:80]!a}",
            hint="letters, digits and . _ , : = / @ + - only",
        )
    return text


def parse_url(text: str) -> str:
    """Return `text` without its last slash if it can be a server's URL. Raises UsageError."""
    if not URL.fullmatch(text):
        raise UsageError(f"not a server's URL: {text[:80]!a}", hint="write http://ADDRESS:8470")
    return text.rstrip("/")
