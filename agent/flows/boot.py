"""The netbooted agent: say hello, claim a job, do it, report, reboot."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, assert_never

from agent.client import JobPoster, ServerClient
from agent.console import Console
from agent.errors import AgentError, ClaimRefused, ServerError
from agent.flows.capture import capture
from agent.flows.deploy import deploy
from agent.flows.failures import failure_of, traceback_of
from agent.flows.version import version
from agent.flows.wipe import wipe
from agent.flows.workplace import Workplace
from agent.model.event import Failed, Level, Logged, Succeeded
from agent.model.inventory import Inventory
from agent.model.job import (
    CaptureSpec,
    Claim,
    DeploySpec,
    Finish,
    Hello,
    InspectSpec,
    MachineId,
    WipeSpec,
)
from agent.probe import probe_inventory
from agent.report import EventPoster, Report, log_file, tee
from agent.store.registry import RegistryClient
from agent.store.retry import Retry
from agent.store.source import BlobSource
from agent.store.sources import open_mirrors
from agent.system.command import Runner
from agent.trust.claims import TrustedClaim, clock_difference_s
from agent.trust.keyring import Keyring

T = TypeVar("T")

LOG = Path("/run/metalcast/log.jsonl")
MIRROR_FILES = Path("/run/metalcast/mirrors")
CLAIM_WAIT_S = 25
CLOCK_TOLERANCE_S = 86400
SERVER_TRIES_S = (2, 3, 5, 10, 15, 30)


@dataclass(slots=True)
class NetbootedAgent:
    """One agent from its start to its end. `agent` is 128 random bits: who knows them is it."""

    run: Runner
    console: Console
    server: ServerClient
    keyring: Keyring
    boot_mac: str | None
    agent: str
    lldp_seconds: int = 0
    sleep: Callable[[float], None] = time.sleep

    def work(self) -> Finish:
        """Claim jobs and do them until one ends in a reboot or power-off; return which.

        Raises ServerError when the server stays away, whatever the job's own end was.
        """
        inventory = probe_inventory(
            self.run, boot_mac=self.boot_mac, lldp_seconds=self.lldp_seconds
        )
        machine = self.hello(inventory)
        self.console.say(f"This machine is {machine}; it waits for a job.")
        while True:
            trusted = self._claim(machine)
            if trusted is None:
                continue
            finish = self.do(trusted, inventory)
            if finish is not Finish.STAY:
                return finish

    def do(self, trusted: TrustedClaim, inventory: Inventory) -> Finish:
        """Do one claimed job; return how the machine goes on. After a failure, it stays."""
        done = self.do_claimed(trusted, inventory)
        return Finish.STAY if done is None else trusted.claim.job.spec.finish

    def do_claimed(self, trusted: TrustedClaim, inventory: Inventory) -> dict[str, Any] | None:
        """Do one claimed job and report its end; return its result, None if it failed.

        Never raises for what the job did: it was told, here and at the server.
        """
        claim = trusted.claim
        job = claim.job
        by = f"signed by {trusted.key}" if trusted.key else "NOT VERIFIED, see above"
        self.console.say(f"Job {job.id}: {job.spec.__struct_config__.tag} ({by})")
        self._compare_clocks(claim)
        client = ServerClient(self.server.base_url, claim.token)
        poster = EventPoster(JobPoster(client, job.id))
        local = tee(self.console.report, log_file(LOG))
        report = tee(local, poster.report)
        source: BlobSource | None = None
        try:
            source = self._source(claim, report)
            confirm = partial(poster.confirm)
            place = Workplace(
                self.run, inventory, report, source, self.keyring, confirm, self.boot_mac
            )
            result = carry_out_job(claim, place)
        except ClaimRefused as error:
            local(Failed(failure=failure_of(error)))
            return None
        except Exception as error:
            self._tell(error, local, poster)
            return None
        finally:
            if source is not None:
                source.close()
        report(Succeeded(result=result))
        poster.close()
        return result

    def _compare_clocks(self, claim: Claim) -> None:
        """Say so when this machine's clock is far off: nothing here depends on it."""
        ahead_s = clock_difference_s(claim, time.time())
        if abs(ahead_s) > CLOCK_TOLERANCE_S:
            way = "ahead of" if ahead_s > 0 else "behind"
            days = abs(ahead_s) / 86400
            self.console.say(f"This machine's clock is {days:.0f} days {way} the server's.")

    def _source(self, claim: Claim, report: Report) -> BlobSource:
        """Return where the job's template is: our server, and the mirrors that it names."""
        url = self.server.base_url
        if not claim.mirrors:
            return RegistryClient(url, claim.repository, claim.token)
        server = RegistryClient(url, claim.repository, claim.token, retry=Retry(attempts=1))

        def warn(text: str) -> None:
            report(Logged(level=Level.WARNING, message=text))

        return open_mirrors(claim.mirrors, server, MIRROR_FILES, warn)

    def _tell(self, error: Exception, local: Report, poster: EventPoster) -> None:
        """Tell of a failure, here and at the server."""
        failed = Failed(failure=failure_of(error))
        local(failed)
        if not isinstance(error, AgentError):
            self.console.say(traceback_of(error))
        try:
            if not isinstance(error, AgentError):
                poster.report(Logged(level=Level.ERROR, message=traceback_of(error)))
            poster.report(failed)
            poster.close()
        except (ServerError, ClaimRefused) as lost:
            self.console.say(f"warning: the server was not told: {lost}")

    def hello(
        self, inventory: Inventory, *, patient: bool = True, trouble: str | None = None
    ) -> MachineId:
        """Introduce this machine; return what the server calls it."""
        hello = Hello(
            agent=self.agent,
            version=version(),
            macs=macs_of(inventory),
            uuid=inventory.board.uuid,
            inventory=inventory,
            trouble=trouble,
            keys=None if trouble else self.keyring.ids,
        )
        if not patient:
            return self.server.hello(hello).machine
        return self._patiently(lambda: self.server.hello(hello)).machine

    def _claim(self, machine: MachineId) -> TrustedClaim | None:
        keys = self.keyring.server
        try:
            return self._patiently(
                lambda: self.server.claim(machine, self.agent, CLAIM_WAIT_S, keys)
            )
        except ClaimRefused as error:
            self.console.say(f"waiting: {error}")
            self.sleep(10)
            return None

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Return what `ask` gives, asking again while the server is away."""
        for pause_s in SERVER_TRIES_S:
            try:
                return ask()
            except ServerError as error:
                if isinstance(error, ClaimRefused):
                    raise
                self.console.say(f"{error}; trying again in {pause_s} s")
                self.sleep(pause_s)
        return ask()


def carry_out_job(claim: Claim, place: Workplace) -> dict[str, Any]:
    """Do what the job says; return its result."""
    job = claim.job
    match job.spec:
        case DeploySpec() as spec:
            if job.template_digest is None:
                raise ServerError("the job names no template digest")
            return deploy(place, spec, job.template_digest, job.id)
        case CaptureSpec() as spec:
            return capture(place, spec)
        case WipeSpec() as spec:
            return wipe(place, spec, job.id)
        case InspectSpec():
            return {"disks": len(place.inventory.disks), "nics": len(place.inventory.nics)}
    assert_never(job.spec)


def macs_of(inventory: Inventory) -> tuple[MachineId, ...]:
    """Return the machine's MACs as names, the one that booted first."""
    nics = sorted(inventory.nics, key=lambda nic: not nic.boot)
    return tuple(nic.mac.lower().replace(":", "-") for nic in nics)


def new_agent_id() -> str:
    return secrets.token_hex(16)
