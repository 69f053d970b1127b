"""`metalcast job create/ls/show/watch/cancel`."""

import argparse
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from agent.errors import UsageError
from agent.model.disk_words import parse_role_hints
from agent.model.job import Finish, Job, JobRequest, JobSpec, JobState, Verify
from agent.model.storage import Shape
from agent.model.wipe import WipeMethod
from agent.model.wire import convert
from netboot.cli.common import make_client, parse_mac
from netboot.cli.show import (
    clean,
    failure_lines,
    format_age,
    say,
    say_facts,
    say_json,
    say_table,
)
from netboot.cli.watch import progress_line, watch_job

HINTS = ("serial", "wwn", "model", "vendor", "name", "size", "transport", "hctl", "by-path")
_PLAIN = (
    *("template", "name", "level", "parent", "damaged", "keep_identity"),
    *("consent", "verify", "finish", "grow", "method", "all_fixed"),
)
"""Options that are fields of a spec, as they are."""


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser("job", help="what machines are to do")
    words = parser.add_subparsers(metavar="WORD", required=True)
    ls = words.add_parser("ls", parents=[common], help="list them, the newest first")
    ls.set_defaults(call=list_jobs)
    for word, call, text in (
        ("show", show_job, "one job, and why it failed"),
        ("watch", watch, "follow a job to its end; exits as its agent did"),
        ("cancel", cancel_job, "end a job"),
    ):
        one = words.add_parser(word, parents=[common], help=text)
        one.add_argument("job", metavar="ID")
        one.set_defaults(call=call)
    create = words.add_parser("create", help="make a job; the machine may boot later")
    _add_create(create.add_subparsers(metavar="KIND", required=True), common)


def _add_create(kinds: Any, common: argparse.ArgumentParser) -> None:
    base = argparse.ArgumentParser(add_help=False)
    base.add_argument("--machine", required=True, metavar="MAC")
    base.add_argument("--finish", choices=[one.value for one in Finish])
    base.add_argument("--watch", action="store_true", help="then follow it, as `job watch`")
    disk = disk_parser()
    deploy = kinds.add_parser("deploy", parents=[common, base, disk], help="write a template")
    deploy.add_argument("--template", metavar="REF", help="NAME, NAME:TAG or NAME@sha256:…")
    add_deploy_options(deploy)
    deploy.set_defaults(call=create_job, kind="deploy")
    capture = kinds.add_parser("capture", parents=[common, base, disk], help="make a template")
    _add_spec(capture)
    capture.add_argument("--name", help="the template's name")
    capture.add_argument("--level", type=int, help="zstd level, 1 to 19; else what suits")
    capture.add_argument("--parent", metavar="REF", help="upload only what differs from it")
    capture.add_argument(
        "--accept-damage",
        dest="damaged",
        action="store_const",
        const=True,
        help="store what cannot be read on the disk as zeros",
    )
    capture.add_argument(
        "--keep-identity",
        action="store_const",
        const=True,
        help="keep SSH host keys and the like in it",
    )
    capture.set_defaults(call=create_job, kind="capture")
    for one in (deploy, capture):
        add_keys(one)
    _add_wipe(kinds.add_parser("wipe", parents=[common, base, disk], help="destroy all data"))
    inspect = kinds.add_parser("inspect", parents=[common, base], help="look, and touch nothing")
    inspect.set_defaults(call=create_job, kind="inspect")


def disk_parser() -> argparse.ArgumentParser:
    """Return the options that choose disks, to be a parent of others."""
    disk = argparse.ArgumentParser(add_help=False)
    for hint in HINTS:
        disk.add_argument(f"--disk-{hint}", metavar=hint.upper(), help=f"the disk's {hint}")
    disk.add_argument(
        "--disk",
        action="append",
        dest="role_hints",
        metavar="ROLE:HINT=VALUE",
        help="one of several disks: disk1:serial=XYZ; repeatable",
    )
    return disk


def add_deploy_options(parser: argparse.ArgumentParser) -> None:
    """Add what a deployment can be asked for, its template and disks apart."""
    _add_spec(parser)
    parser.add_argument("--hostname")
    parser.add_argument(
        "--authorized-key", action="append", type=Path, metavar="FILE", help="for root"
    )
    parser.add_argument("--network", type=Path, metavar="FILE", help="network-config v2, YAML")
    grow = parser.add_mutually_exclusive_group()
    grow.add_argument("--grow", metavar="MOUNT", help="what gets the rest of a bigger disk: /")
    grow.add_argument("--no-grow", action="store_true", help="leave the rest of the disk free")
    parser.add_argument(
        "--layout",
        metavar="NAME|FILE",
        help=f"{', '.join(Shape)}, or a storage configuration, JSON or YAML; else the template's",
    )
    parser.add_argument(
        "--consent", action="append", metavar="WORD", help="destroy this: LVM2_member, …"
    )
    parser.add_argument("--verify", choices=[one.value for one in Verify])


def _add_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spec", type=Path, metavar="FILE", help="JSON or YAML; options win")


def add_keys(parser: argparse.ArgumentParser) -> None:
    for name, text in (("passphrase", "its first line opens LUKS"), ("key", "its bytes do")):
        parser.add_argument(
            f"--luks-{name}",
            action="append",
            metavar="[UUID=]FILE",
            help=f"{text}: of that container, or of any",
        )


def _add_wipe(parser: argparse.ArgumentParser) -> None:
    _add_spec(parser)
    parser.add_argument(
        "--all-fixed-disks",
        dest="all_fixed",
        action="store_const",
        const=True,
        help="in place of naming one: every disk that is not USB, removable or read-only",
    )
    parser.add_argument("--method", choices=[one.value for one in WipeMethod])
    parser.add_argument("--verify", choices=[one.value for one in Verify])
    parser.add_argument(
        "--consent", action="append", metavar="WORD", help="destroy this: LVM2_member, …"
    )
    parser.set_defaults(call=create_job, kind="wipe")


def create_job(args: argparse.Namespace) -> int:
    asked = JobRequest(machine=parse_mac(args.machine), spec=make_spec(args))
    client = make_client(args)
    job = client.make_job(asked)
    if not args.json:
        say(f"{job.id}  {describe(job)} on {job.machine}, {job.state.value}")
    elif not args.watch:
        say_json(job)
    return watch_job(client, job.id, as_json=args.json) if args.watch else 0


def make_spec(args: argparse.Namespace) -> JobSpec:
    """Return the spec that the options ask for. Raises UsageError, BadDocument."""
    spec: dict[str, Any] = {}
    if getattr(args, "spec", None):
        spec = _document(args.spec, "spec")
        if spec.get("kind", args.kind) != args.kind:
            raise UsageError(f"{args.spec} is for {spec['kind']!a}, not {args.kind}")
    spec["kind"] = args.kind
    for name in _PLAIN:
        if (value := getattr(args, name, None)) is not None:
            spec[name] = value
    if getattr(args, "no_grow", False):
        spec["grow"] = None
    hints = {name.replace("-", "_"): _hint(args, name) for name in HINTS}
    if given := {name: value for name, value in hints.items() if value is not None}:
        if args.kind == "wipe":
            spec["disks"] = [given]
        else:
            spec["disk"] = {**spec.get("disk", {}), **given}
    if roles := parse_role_hints(getattr(args, "role_hints", None) or ()):
        if given:
            raise UsageError("--disk and --disk-HINT do not go together")
        _add_roles(spec, roles)
    if keys := list(_keys(args)):
        spec["keys"] = [*spec.get("keys", ()), *keys]
    if args.kind == "deploy":
        _add_personal(args, spec)
        if args.layout:
            is_name = args.layout in list(Shape)
            spec["layout"] = args.layout if is_name else _storage(Path(args.layout))
        if "template" not in spec:
            raise UsageError("which template? give --template REF")
    elif args.kind == "capture" and "name" not in spec:
        raise UsageError("which name is the template to get? give --name NAME")
    made: JobSpec = convert(spec, JobSpec, "job")  # type: ignore[arg-type]
    return made


def _add_roles(spec: dict[str, Any], roles: dict[str, dict[str, Any]]) -> None:
    """Add the disk of each role. What is captured or wiped has no layout yet: their order counts.

    Raises UsageError for the source of a capture unless the roles are disk0, disk1, ….
    """
    if spec["kind"] == "deploy":
        before = spec.get("disks") or {}
        spec["disks"] = {**before, **{r: {**before.get(r, {}), **h} for r, h in roles.items()}}
        return
    names = [f"disk{number}" for number in range(len(roles))]
    if set(names) != set(roles):
        raise UsageError(f"--disk: {len(roles)} disks are {', '.join(names)}")
    spec["disks"] = [roles[name] for name in names]


def _keys(args: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Yield the disk keys that the options name, each read from its file: none is in `ps`."""
    for given in getattr(args, "luks_passphrase", None) or ():
        device, path = _key_place(given)
        yield {"device": device, "passphrase": _text(path).partition("\n")[0].rstrip("\r")}
    for given in getattr(args, "luks_key", None) or ():
        device, path = _key_place(given)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}") from error
        yield {"device": device, "key_file_base64": base64.b64encode(data).decode()}


def _key_place(given: str) -> tuple[str, Path]:
    device, equals, path = given.partition("=")
    return (device.lower(), Path(path)) if equals else ("*", Path(given))


def _hint(args: argparse.Namespace, name: str) -> str | None:
    value: str | None = getattr(args, f"disk_{name.replace('-', '_')}", None)
    return value


def _add_personal(args: argparse.Namespace, spec: dict[str, Any]) -> None:
    """Add what makes the machine itself: its names, keys and network."""
    identity = dict(spec.get("identity", {}))
    if args.hostname:
        identity["hostname"] = args.hostname
    if args.authorized_key:
        lines = [line for path in args.authorized_key for line in _text(path).splitlines()]
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        identity["authorized_keys"] = keys
    if identity:
        spec["identity"] = identity
    if args.network:
        document = _document(args.network, "network")
        spec["network"] = document.get("network", document)


def _storage(path: Path) -> dict[str, Any]:
    """Return a storage configuration, as curtin nests it or bare. Raises UsageError."""
    if not path.exists():
        raise UsageError(f"no layout is called {str(path)!a}, and there is no such file")
    document = _document(path, "layout")
    return dict(document.get("storage", document))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}") from error


def _document(path: Path, what: str) -> dict[str, Any]:
    """Return a YAML or JSON file (JSON is YAML) that holds a mapping. Raises UsageError."""
    try:
        document = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is neither YAML nor JSON") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected a mapping, the {what}")
    return document


def describe(job: Job) -> str:
    """Return what a job does, in a few words."""
    spec = job.spec
    about = getattr(spec, "template", None) or getattr(spec, "name", None)
    return f"{spec.__struct_config__.tag} {about}" if about else f"{spec.__struct_config__.tag}"


def list_jobs(args: argparse.Namespace) -> int:
    found = make_client(args).jobs()
    if args.json:
        say_json(found)
        return 0
    rows = [
        (job.id, job.machine, describe(job), _state(job), job.step, format_age(job.created_at))
        for job in found
    ]
    say_table(("JOB", "MACHINE", "WHAT", "STATE", "STEP", "AGE"), rows, "no jobs yet")
    return 0


def _state(job: Job) -> str:
    if job.state is not JobState.RUNNING:
        return job.state.value
    silent = format_age(job.heard_at)
    return f"running, heard {silent} ago" if silent else "running, no word yet"


def show_job(args: argparse.Namespace) -> int:
    job = make_client(args).job(args.job)
    if args.json:
        say_json(job)
        return 0
    say_facts(
        (
            ("job", job.id),
            ("machine", job.machine),
            ("what", describe(job)),
            ("state", _state(job)),
            ("template", job.template_digest),
            ("created", job.created_at),
            ("started", job.started_at),
            ("ended", job.ended_at),
            ("claims", job.fence or None),
            ("step", job.step),
            ("progress", progress_line(job.progress) if job.progress else None),
        )
    )
    for line in failure_lines(job.failure) if job.failure else ():
        say(line)
    return 0


def watch(args: argparse.Namespace) -> int:
    return watch_job(make_client(args), args.job, as_json=args.json)


def cancel_job(args: argparse.Namespace) -> int:
    job = make_client(args).cancel_job(args.job)
    if args.json:
        say_json(job)
        return 0
    say(f"{job.id} is cancelled")
    if job.fence:
        say(clean("its agent stops at its next word; the disk may be partly written"))
    return 0
