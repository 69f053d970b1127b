"""The verbs that a person types: inspect, plan, deploy, capture. The same flows as a job's."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.console import Console, duration, standard_console, with_lack
from agent.errors import ExitStatus, Refused, UsageError
from agent.flows.capture import capture as capture_flow
from agent.flows.deploy import NO_JOB, make_plan, render_page
from agent.flows.deploy import deploy as deploy_flow
from agent.flows.questions import Questions, yes_or_no
from agent.flows.workplace import Workplace
from agent.model.disk_words import parse_role_hints
from agent.model.event import Happening, Level, Logged, PlanMade
from agent.model.job import CaptureSpec, DeploySpec
from agent.model.wire import convert, decode, pretty
from agent.probe import probe_inventory
from agent.probe.page import render_inventory
from agent.report import now
from agent.store.auth import Login
from agent.store.layout import LayoutFolder
from agent.store.mirrors import Mirrors, WebSource
from agent.store.registry import RegistryClient
from agent.store.retry import Retry
from agent.store.source import BlobSource
from agent.store.sources import open_source
from agent.system.command import Run
from agent.trust.keyring import Keyring, read_keyring
from agent.units import format_bytes

_HINTS = ("serial", "wwn", "model", "vendor", "hctl", "by_path", "transport", "size", "name")
_FILE_MAX_BYTES = 256 * 1024


def inspect(args: argparse.Namespace) -> int:
    inventory = probe_inventory(Run(), lldp_seconds=args.lldp_seconds)
    return _print(args, inventory, render_inventory(inventory), read_keyring())


def plan(args: argparse.Namespace) -> int:
    spec, reference = _deploy_spec(args)
    place = _place(args, spec.template, lambda _: None)
    made, _, trusted = make_plan(place, spec, reference, NO_JOB)
    facts = {
        "digest": made.digest,
        "signature": trusted.signed,
        "keys": place.keyring.ids,
        "plan": made,
    }
    return _print(args, facts, render_page(made, trusted), place.keyring)


def _print(args: argparse.Namespace, facts: Any, page: str, keyring: Keyring) -> int:
    print(pretty(facts) if args.json else with_lack(page, keyring.lack))
    return ExitStatus.DONE


def deploy(args: argparse.Namespace) -> int:
    _need_root()
    spec, reference = _deploy_spec(args)
    console = standard_console()
    report = partial(_asking, console, args.yes, "Write this to the disk?")
    place = _place(args, spec.template, report)
    console.lack = place.keyring.lack
    result = deploy_flow(place, spec, reference, NO_JOB)
    console.show(f"The disk {result['disk']} holds {args.template}; it boots.")
    console.drain()
    return ExitStatus.DONE


def capture(args: argparse.Namespace) -> int:
    _need_root()
    spec = _spec(
        {
            "kind": "capture",
            "name": args.name,
            "level": args.level,
            "parent": args.parent,
            "keep_identity": args.keep_identity,
            "damaged": args.accept_damage,
            "disk": _disk(args),
            "disks": list(parse_role_hints(args.role_hints).values()),
            "keys": _keys(args),
        },
        CaptureSpec,
    )
    console = standard_console()
    report = partial(_asking, console, args.yes, "Capture it?")
    place = _place(args, spec.name, report)
    console.lack = place.keyring.lack
    result = capture_flow(place, spec)
    console.show(receipt(result))
    console.drain()
    return ExitStatus.DONE


def receipt(result: dict[str, Any]) -> str:
    """Return what a technician keeps of a capture."""
    used, stored = format_bytes(result["used_bytes"]), format_bytes(result["stored_bytes"])
    lines = [
        "",
        "RECEIPT",
        f"  template   {result['name']}",
        f"  digest     {result['digest']}",
        f"  source     {result['disk']}, {format_bytes(result['raw_bytes'])}, not written to",
        f"  data       {used} used, {stored} stored",
        f"  time       {duration(result['seconds'])}, done {now()}",
        f"  left out   {len(result['left_out'])} files of this machine only",
        *(f"  DAMAGED    {line}" for line in result["damage"]),
    ]
    return "\n".join(lines)


def _asking(console: Console, yes: bool, question: str, happening: Happening) -> None:
    """Report to the console, and ask when the plan is shown."""
    console.report(happening)
    if yes or not isinstance(happening, PlanMade):
        return
    if not Questions(console).ask(question, yes_or_no, argument="--yes"):
        raise Refused(("you said no",))


def _place(args: argparse.Namespace, template: str, report: Any) -> Workplace:
    source = find_source(args, template, report)
    run = Run()
    return Workplace(run, probe_inventory(run), report, source, read_keyring())


def find_source(args: argparse.Namespace, template: str, report: Any) -> BlobSource:
    """Return where the template is, or goes: the server, the sources given, or both; a folder."""
    urls: list[str] = getattr(args, "source", [])
    if folder := _folder(args, urls):
        return folder
    if not args.server and not urls:
        other = "--folder DIR" if hasattr(args, "folder") else "--source URL"
        raise UsageError("where is the template?", hint=f"give --server URL, or {other}")
    retry = Retry(attempts=1) if len(urls) + bool(args.server) > 1 else None
    sources: list[WebSource] = []
    if urls:
        login = _login(args, urls)
        sources += [open_source(url, login=login, ca=args.ca, retry=retry) for url in urls]
    if args.server:
        token = _read(args.token_file).strip() if args.token_file else None
        repository = template.partition("@")[0].partition(":")[0]
        sources.append(RegistryClient(args.server, repository, token, retry=retry))
    if len(sources) == 1:
        return sources[0]
    return Mirrors(sources, warn=lambda text: report(Logged(level=Level.WARNING, message=text)))


def _folder(args: argparse.Namespace, urls: Sequence[str]) -> LayoutFolder | None:
    """Return the folder of this machine that is named, if one is."""
    named: Path | None = getattr(args, "folder", None)
    if named is None and urls and Path(urls[0]).is_dir():
        named, urls = Path(urls[0]), urls[1:]
    if named is None:
        return None
    if urls or args.server:
        raise UsageError("a folder stands alone: no server, no other source beside it")
    return LayoutFolder(named)


def _login(args: argparse.Namespace, urls: list[str]) -> Login | None:
    if bool(args.user) != bool(args.password_file):
        raise UsageError("--user and --password-file belong together")
    if not args.user:
        return None
    if len({urlsplit(url)[:2] for url in urls}) > 1:
        raise UsageError("--user is for one server; these sources are on several")
    return Login(args.user, _read(args.password_file).rstrip("\r\n"))


def _deploy_spec(args: argparse.Namespace) -> tuple[DeploySpec, str]:
    """Return what is asked for and which manifest: a digest if one was given, else a tag."""
    spec = _spec(
        {
            "kind": "deploy",
            "template": args.template,
            "disk": _disk(args),
            "disks": parse_role_hints(args.role_hints) or None,
            "keys": _keys(args),
            "layout": args.layout.value,
            "network": decode(_read(args.network), dict[str, Any], str(args.network))
            if args.network
            else None,
            "identity": {
                "hostname": args.hostname,
                "authorized_keys": [
                    line
                    for file in args.authorized_key
                    for line in _read(file).splitlines()
                    if line and not line.startswith("#")
                ],
            },
            "grow": args.grow,
            "consent": args.consent,
            "verify": args.verify.value,
        },
        DeploySpec,
    )
    name, _, digest = spec.template.partition("@")
    return spec, digest or name.partition(":")[2] or "latest"


def _spec(document: dict[str, Any], kind: Any) -> Any:
    try:
        return convert(document, kind, "arguments")
    except Exception as error:
        raise UsageError(str(error)) from error


def _keys(args: argparse.Namespace) -> list[dict[str, str]]:
    if args.luks_passphrase is None:
        return []
    return [{"passphrase": _read(args.luks_passphrase).partition("\n")[0].rstrip("\r")}]


def _disk(args: argparse.Namespace) -> dict[str, str]:
    given = {hint: getattr(args, f"disk_{hint}") for hint in _HINTS}
    return {hint: value for hint, value in given.items() if value is not None}


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_FILE_MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def _need_root() -> None:
    if os.geteuid() != 0:
        raise Refused(("only root can do that",), hint="run it as root")
