"""Every failure that we expect, on one page.

Each layer adds one clause and keeps the cause (`raise ... from`). Anything that is not an
AgentError is a bug and shows a traceback. Only `agent.cli` prints or exits.

| status | means |
|---|---|
| 0 | done |
| 1 | bug in Metalcast |
| 2 | usage: unknown or malformed argument |
| 3 | refused: no disk was changed |
| 4 | failed: a disk is partly written and will not boot |
"""

from enum import IntEnum, StrEnum


class ExitStatus(IntEnum):
    DONE = 0
    BUG = 1
    USAGE = 2
    REFUSED = 3
    FAILED = 4


class DiskState(StrEnum):
    """How a failure left the disk, in words for an operator."""

    UNCHANGED = "unchanged"
    PARTIAL = "partly written, will not boot"
    COMPLETE = "completely written and verified"


class AgentError(Exception):
    """An expected failure. `str()` is one line; `hint` is the next step for a person."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(AgentError):
    """An argument that we do not know or cannot read."""


class Refused(AgentError):
    """We will not begin. Carries every objection at once, so one visit settles them all."""

    def __init__(self, objections: tuple[str, ...], *, hint: str | None = None) -> None:
        super().__init__("; ".join(objections), hint=hint)
        self.objections = objections


class PlanRefused(Refused):
    """The plan cannot be made safely; nothing was written."""


class CommandFailed(AgentError):
    """A program that we called failed; `str()` ends with what it wrote on stderr."""


class ServerError(AgentError):
    """The server cannot be reached, or says no."""


class ClaimRefused(ServerError):
    """The server gave the job to another agent, or has none for this machine."""


class TemplateError(AgentError):
    """The template is not what its manifest says."""


class ChunkCorrupt(TemplateError):
    """A chunk's bytes do not have the digest that its index gives."""


class DiskError(AgentError):
    """A read or write failed; the message names disk, serial and offset."""


class SourceUnfit(Refused):
    """The source cannot be captured as it is (dirty, hibernated, mounted)."""


class StepFailed(AgentError):
    """A step of a plan failed. `state` says how the disk was left."""

    def __init__(self, step: str, state: DiskState, *, hint: str | None = None) -> None:
        super().__init__(f"could not {step}", hint=hint)
        self.step = step
        self.state = state


def reasons(error: BaseException) -> tuple[str, ...]:
    """Return the messages of `error` and of what caused it, outermost first."""
    found: list[str] = []
    current: BaseException | None = error
    while current is not None:
        text = str(current) or type(current).__name__
        found.append(text)
        current = current.__cause__
    return tuple(found)


def hint_of(error: BaseException) -> str | None:
    """Return the innermost hint along the chain of causes: it knows most."""
    hint: str | None = None
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, AgentError) and current.hint:
            hint = current.hint
        current = current.__cause__
    return hint


def with_hint(error: AgentError) -> str:
    """Return what `error` says and, behind a colon, what to do; on one line."""
    hint = hint_of(error)
    return f"{error}: {hint}" if hint else str(error)


def exit_status(error: BaseException) -> ExitStatus:
    """Return the exit status that `error` deserves (see the table above)."""
    if isinstance(error, UsageError):
        return ExitStatus.USAGE
    if isinstance(error, StepFailed):
        return ExitStatus.REFUSED if error.state is DiskState.UNCHANGED else ExitStatus.FAILED
    if isinstance(error, AgentError):
        return ExitStatus.REFUSED
    return ExitStatus.BUG
