"""What the server knows of machines: transactions on the open database."""

import sqlite3
from collections.abc import Iterator
from typing import Final

from agent.model.inventory import Inventory
from agent.model.job import ImageKeys, Machine
from agent.model.wire import decode, encode
from netboot.problems import ProblemError, not_found

MACHINES_MAX: Final = 10_000
UUID_MAX: Final = 64


def see_machine(db: sqlite3.Connection, machine: str, at: str, *, uuid: str | None = None) -> None:
    """Note that `machine` gave a sign of life; register it if it is new.

    What a stranger says never overwrites what is known: the UUID of the first sight stays.
    """
    known = db.execute("UPDATE machines SET last_seen_at = ? WHERE id = ?", (at, machine)).rowcount
    if not known:
        make_machine(db, machine, at)
    db.execute("UPDATE machines SET uuid = coalesce(uuid, ?) WHERE id = ?", (uuid, machine))


def make_machine(db: sqlite3.Connection, machine: str, at: str) -> None:
    """Register `machine` unless it is known. Raises ProblemError when there are too many."""
    if db.execute("SELECT 1 FROM machines WHERE id = ?", (machine,)).fetchone():
        return
    if db.execute("SELECT count(*) FROM machines").fetchone()[0] >= MACHINES_MAX:
        raise ProblemError(
            507, "full", f"{MACHINES_MAX} machines are registered", hint="metalcast machine rm MAC"
        )
    db.execute(
        "INSERT INTO machines (id, first_seen_at, last_seen_at) VALUES (?, ?, ?)",
        (machine, at, at),
    )


def keep_inventory(db: sqlite3.Connection, machine: str, inventory: Inventory, at: str) -> None:
    firmware = inventory.firmware if inventory.firmware in ("bios", "uefi") else None
    db.execute(
        "UPDATE machines SET inventory = ?, inventory_at = ?, firmware = coalesce(?, firmware)"
        " WHERE id = ?",
        (encode(inventory), at, firmware, machine),
    )


def keep_trouble(db: sqlite3.Connection, machine: str, trouble: str | None) -> None:
    """Note why the machine's agent cannot work; None when it can."""
    db.execute("UPDATE machines SET trouble = ? WHERE id = ?", (trouble, machine))


def keep_keys(db: sqlite3.Connection, machine: str, keys: ImageKeys | None) -> None:
    """Note whom the machine's agent trusts; None: what it said before stands."""
    if keys is not None:
        db.execute("UPDATE machines SET keys = ? WHERE id = ?", (encode(keys), machine))


def name_machine(db: sqlite3.Connection, machine: str, name: str) -> None:
    db.execute("UPDATE machines SET name = ? WHERE id = ?", (name, machine))


_SELECT: Final = """
SELECT m.id, m.uuid, m.name, m.first_seen_at, m.last_seen_at, m.firmware, m.inventory_at, m.trouble,
       m.keys,
       (SELECT j.id FROM jobs j WHERE j.machine = m.id
        ORDER BY j.state IN ('queued', 'running') DESC, j.ordinal DESC LIMIT 1) AS job
FROM machines m
"""


def find_machines(db: sqlite3.Connection) -> tuple[Machine, ...]:
    """Return every machine, the one seen last first."""
    return tuple(_machines(db.execute(_SELECT + "ORDER BY m.last_seen_at DESC, m.id")))


def find_machine(db: sqlite3.Connection, machine: str) -> Machine:
    """Return one machine. Raises ProblemError."""
    for found in _machines(db.execute(_SELECT + "WHERE m.id = ?", (machine,))):
        return found
    raise not_found(f"unknown machine {machine}")


def find_inventory(db: sqlite3.Connection, machine: str) -> Inventory:
    """Return what `machine` is. Raises ProblemError if it never said."""
    found = db.execute("SELECT inventory FROM machines WHERE id = ?", (machine,)).fetchone()
    if found is None:
        raise not_found(f"unknown machine {machine}")
    if found["inventory"] is None:
        raise not_found(f"{machine} has not told yet what it is", "boot it from the network once")
    return decode(found["inventory"], Inventory, f"inventory of {machine}")


def remove_machine(db: sqlite3.Connection, machine: str) -> None:
    """Forget a machine and its ended jobs. Raises ProblemError while it has a job to do."""
    found = find_machine(db, machine)
    active = db.execute(
        "SELECT id FROM jobs WHERE machine = ? AND state IN ('queued', 'running')", (machine,)
    ).fetchone()
    if active:
        raise ProblemError(
            409,
            "conflict",
            f"{machine} has the job {active['id']}",
            hint=f"metalcast job cancel {active['id']}",
        )
    jobs = "(SELECT id FROM jobs WHERE machine = ?)"
    db.execute(f"DELETE FROM tokens WHERE job IN {jobs}", (found.id,))  # noqa: S608
    db.execute(f"DELETE FROM events WHERE job IN {jobs}", (found.id,))  # noqa: S608
    db.execute("DELETE FROM jobs WHERE machine = ?", (found.id,))
    db.execute("DELETE FROM machines WHERE id = ?", (found.id,))


def _machines(rows: sqlite3.Cursor) -> Iterator[Machine]:
    for row in rows:
        yield Machine(
            id=row["id"],
            uuid=row["uuid"],
            name=row["name"],
            first_seen_at=row["first_seen_at"],
            last_seen_at=row["last_seen_at"],
            firmware=row["firmware"],
            inventory_at=row["inventory_at"],
            job=row["job"],
            trouble=row["trouble"],
            keys=decode(row["keys"], ImageKeys, "keys") if row["keys"] else None,
        )
