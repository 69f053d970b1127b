"""An error, as it is told to a person."""

import traceback

from agent.errors import DiskState, ExitStatus, StepFailed, exit_status, hint_of, reasons
from agent.model.event import Failure

TRACEBACK_CHARS = 8000


def failure_of(error: BaseException) -> Failure:
    """Return `error` for a person: summary, causes, how the disk was left, the next step."""
    summary, *because = reasons(error)
    state = error.state if isinstance(error, StepFailed) else DiskState.UNCHANGED
    status = exit_status(error)
    if status is ExitStatus.BUG:
        summary = f"a bug in Metalcast: {type(error).__name__}: {summary}"
    return Failure(
        summary=summary,
        because=tuple(because),
        disk=state.value,
        hint=hint_of(error),
        status=status,
    )


def traceback_of(error: BaseException) -> str:
    """Return the end of the traceback of `error`."""
    return "".join(traceback.format_exception(error))[-TRACEBACK_CHARS:]
