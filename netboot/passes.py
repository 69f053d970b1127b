"""Passes: an operator lets a technician capture one machine, once, under one name.

A technician at a console cannot type an operator's token, and should not have it. A pass is 80
random bits in four groups of four letters; the database keeps its hash.
"""

import secrets
import sqlite3
from typing import Final

from agent.model.job import Pass, PassRequest, Redemption
from netboot import jobs
from netboot.problems import forbidden
from netboot.state import rfc3339

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
_GROUPS: Final = 4


def make_pass(db: sqlite3.Connection, asked: PassRequest, now: float) -> Pass:
    """Return a new pass: the one time that its code is seen."""
    groups = ("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(_GROUPS))
    code = "-".join(groups)
    expires_at = now + asked.minutes * 60
    db.execute("DELETE FROM passes WHERE expires_at < ?", (now,))
    db.execute(
        "INSERT INTO passes (hash, name, expires_at) VALUES (?, ?, ?)",
        (jobs.hash_token(code), asked.name, expires_at),
    )
    return Pass(code=code, name=asked.name, expires_at=rfc3339(expires_at))


def redeem_pass(db: sqlite3.Connection, asked: Redemption, now: float, at: str) -> None:
    """Spend a pass on a capture job for the machine, ready to be claimed.

    Raises ProblemError 403 for a pass that is unknown, spent, expired or for another name, 409 if
    the machine has a job already; then the pass is not spent.
    """
    row = db.execute(
        "SELECT name, expires_at FROM passes WHERE hash = ?", (jobs.hash_token(asked.code),)
    ).fetchone()
    if row is None or row["expires_at"] < now:
        raise forbidden("this pass is unknown, used already, or has expired")
    if row["name"] != asked.spec.name:
        raise forbidden(f"this pass is for the name {row['name']}")
    jobs.make_job(db, asked.machine, asked.spec, None, at)
    db.execute("DELETE FROM passes WHERE hash = ?", (jobs.hash_token(asked.code),))
