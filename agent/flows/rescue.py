"""A technician captures this machine: numbered questions, a capture to watch, a receipt."""

import re
from dataclasses import dataclass

from agent.bootargs import BootArgs
from agent.client import ServerClient
from agent.console import Console
from agent.errors import PlanRefused, Refused, ServerError, UsageError
from agent.flows.boot import NetbootedAgent, new_agent_id
from agent.flows.by_hand import receipt
from agent.flows.capture import look_at_disks
from agent.flows.questions import (
    NotAnAnswer,
    Questions,
    matching,
    one_of,
    template_name_from,
    yes_or_no,
)
from agent.model.found import CapturePlan
from agent.model.inventory import Drive, Inventory
from agent.model.job import CaptureSpec, DiskHints, Finish, MachineId, PassCode
from agent.model.template import NAME_PATTERN
from agent.model.wire import BadDocument, convert
from agent.planning.hints import choosing_hint, kernel_argument, pick_disk, summarize_contents
from agent.planning.review import render_capture
from agent.probe import probe_inventory
from agent.system.command import Runner
from agent.trust.claims import TrustedClaim
from agent.trust.keyring import Keyring
from agent.units import format_bytes

_URL = r"https?://[A-Za-z0-9.\[\]:-]+"


@dataclass(slots=True)
class Rescue:
    """One conversation. What a kernel argument answers is shown and not asked."""

    run: Runner
    console: Console
    args: BootArgs
    questions: Questions
    keyring: Keyring

    def work(self) -> Finish:
        """Ask, capture, show the receipt; return how the machine goes on.

        Raises Refused and SourceUnfit before anything was sent, ServerError, StepFailed.
        """
        questions = self.questions
        inventory = probe_inventory(self.run, boot_mac=self.args.bootif)
        for line in self.keyring.lines():
            self.console.say(line)
        self.console.show(render_choices(inventory))
        drive = self._disk(questions, inventory)
        plan = self._look(inventory, drive)
        self.console.show(render_sizes(plan))
        name = questions.ask(
            "Name of the template?",
            matching(NAME_PATTERN, "lower-case letters, digits, and . _ - / between them"),
            argument="metalcast.name",
            given=self.args.name,
            default=self._suggested_name(plan),
        )
        agent, machine = self._server(questions, inventory)
        hint = choosing_hint(drive, inventory.disks)
        document = {
            "kind": "capture",
            "name": name,
            "disk": {hint[0]: hint[1]},
            "level": self.args.level,
            "parent": self.args.parent,
            "damaged": self.args.accept_damage,
            "finish": self.args.finish or Finish.STAY,
        }
        spec = convert(document, CaptureSpec, "job")
        claim = self._claim(questions, agent, machine, spec)
        begin = questions.ask(
            f"Capture {drive.path} as {name}? The disk is only read.",
            yes_or_no,
            argument="metalcast.yes",
            given="yes" if self.args.yes else None,
            default="yes",
        )
        if not begin:
            raise Refused(("you said no",), hint="start again to answer anew")
        return self._capture(agent, claim, inventory, hint)

    def _disk(self, questions: Questions, inventory: Inventory) -> Drive:
        """Return the disk that the arguments name, else the one that is chosen."""
        if self.args.disk != DiskHints():
            drive = pick_disk(self.args.disk, inventory.disks)
            questions.number += 1
            self.console.say(f"{questions.number}. Which disk? {drive.path}, by the arguments")
            return drive
        default = None
        try:
            usual = pick_disk(DiskHints(), inventory.disks)
            default = str(inventory.disks.index(usual) + 1)
        except PlanRefused:
            if not inventory.disks:
                raise
        chosen = questions.ask(
            "Which disk?",
            one_of(len(inventory.disks)),
            argument="metalcast.disk.serial",
            default=default,
        )
        return inventory.disks[chosen]

    def _look(self, inventory: Inventory, drive: Drive) -> CapturePlan:
        self.console.say(f"Looking at {drive.path} …")
        name, value = choosing_hint(drive, inventory.disks)
        spec = CaptureSpec(name="server", disk=convert({name: value}, DiskHints, "disk"))
        return look_at_disks(self.run, inventory, spec)

    def _suggested_name(self, plan: CapturePlan) -> str:
        if plan.os is None:
            return template_name_from(None)
        return template_name_from(plan.os.id, plan.os.version)

    def _server(
        self, questions: Questions, inventory: Inventory
    ) -> tuple[NetbootedAgent, MachineId]:
        """Return an agent that the store's server has said hello to."""

        def reach(url: str) -> tuple[NetbootedAgent, MachineId]:
            if not re.fullmatch(_URL, url):
                raise NotAnAnswer("please type http://ADDRESS:8470")
            agent = NetbootedAgent(
                self.run,
                self.console,
                ServerClient(url),
                self.keyring,
                self.args.bootif,
                new_agent_id(),
            )
            return agent, agent.hello(inventory, patient=False)

        return questions.ask(
            "Where to? The store's URL", reach, argument="metalcast.server", given=self._url()
        )

    def _url(self) -> str | None:
        return self.args.store or self.args.server

    def _claim(
        self, questions: Questions, agent: NetbootedAgent, machine: MachineId, spec: CaptureSpec
    ) -> TrustedClaim:
        """Return the right to upload: a job that waits for this machine, else a pass."""
        keys = self.keyring.server
        waiting = agent.server.claim(machine, agent.agent, 0, keys)
        if waiting is not None:
            found = waiting.claim.job
            job = found.spec
            if not isinstance(job, CaptureSpec) or job.name != spec.name:
                raise UsageError(
                    f"the server has another job for this machine: {found.id}",
                    hint=f"metalcast job cancel {found.id}",
                )
            self.console.say(f"The job {found.id} at the server allows it.")
            return waiting

        def redeem(code: str) -> TrustedClaim:
            try:
                plain = convert(code.strip().lower(), PassCode, "pass")
            except BadDocument as error:
                raise NotAnAnswer("please type it as it was shown: xxxx-xxxx-xxxx-xxxx") from error
            return agent.server.redeem(plain, machine, agent.agent, spec, keys)

        self.console.say(f"On the server, make a pass:  metalcast pass create --name {spec.name}")
        return questions.ask("Pass?", redeem, argument="the pass, typed at the console;")

    def _capture(
        self,
        agent: NetbootedAgent,
        claim: TrustedClaim,
        inventory: Inventory,
        hint: tuple[str, str],
    ) -> Finish:
        result = agent.do_claimed(claim, inventory)
        if result is None:
            raise ServerError("the capture failed; the reason is above", hint="start again")
        name = result["name"]
        self.console.show(
            f"{receipt(result)}\n"
            "  again      metalcast.mode=capture "
            f"metalcast.server={agent.server.base_url} metalcast.name={name} "
            f"{kernel_argument(*hint)} metalcast.yes=yes"
            f"{' metalcast.accept_damage=yes' if self.args.accept_damage else ''}"
        )
        return self.args.finish or Finish.STAY


def render_choices(inventory: Inventory) -> str:
    """Return the machine and its disks, numbered: what the first question is about."""
    board = " ".join(word for word in (inventory.board.vendor, inventory.board.product) if word)
    lines = [
        "",
        "This machine can be captured as a template. Nothing on its disks is changed.",
        "",
        f"Machine   {board or 'unknown'}, {inventory.cpus} CPU, "
        f"{format_bytes(inventory.memory_bytes)}, {inventory.firmware.upper()}",
        "Disks",
    ]
    for number, drive in enumerate(inventory.disks, start=1):
        serial = f"serial {drive.serial}" if drive.serial else "no serial"
        lines.append(
            f"  {number}  {drive.path:<14} {format_bytes(drive.size_bytes):>10}  "
            f"{drive.transport.value:<7} {drive.model or ''}  {serial}  {summarize_contents(drive)}"
        )
    return "\n".join(lines) + "\n"


def render_sizes(plan: CapturePlan) -> str:
    """Return what would be read: the whole plan, and its used and raw size."""
    used = sum(volume.used_bytes for volume in plan.layout.volumes)
    raw = sum(source.size_bytes for source in plan.sources)
    return (
        f"{render_capture(plan)}\n"
        f"Used {format_bytes(used)} of {format_bytes(raw)}; the upload is compressed.\n"
    )
