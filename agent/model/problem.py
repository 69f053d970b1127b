"""An error as it crosses the wire: RFC 9457, `application/problem+json`."""

from typing import Final

from agent.model.wire import Value

PROBLEM_TYPE: Final = "application/problem+json"
PREFIX: Final = "urn:metalcast:problem:"

FENCED: Final = "fenced"
"""409: another agent has claimed the job since; stop writing at once."""
CANCELLED: Final = "cancelled"
"""409: an operator ended the job; stop."""
ENDED: Final = "ended"
"""409: the job has ended already."""
LEASED: Final = "leased"
"""409 on a claim: another agent holds the job and is alive. See Retry-After."""


class Problem(Value, frozen=True, kw_only=True):
    """Why the server said no. `type` is `urn:metalcast:problem:` and a word such as `fenced`."""

    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    """The next step for a person."""

    @property
    def word(self) -> str:
        """The last part of `type`: what a program branches on."""
        return self.type.removeprefix(PREFIX)
