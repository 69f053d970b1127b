"""Words in, exit status out: the only place where the agent prints or exits.

python -m agent boot | network | inspect | plan | deploy | capture | rescue
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.console import failure_page, with_lack
from agent.errors import AgentError, ExitStatus, UsageError, exit_status
from agent.flows import by_hand, start
from agent.flows.failures import failure_of
from agent.flows.version import version
from agent.model.job import Verify
from agent.model.storage import Shape
from agent.trust.keyring import read_keyring
from agent.trust.minisign import TrustError

_STATUS = """\
exit status: 0 done; 1 bug in Metalcast; 2 unknown or malformed argument;
3 refused, no disk was changed; 4 failed, a disk is partly written and will not boot"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="agent",
        description="Capture this machine as a template, or deploy a template to it.",
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"metalcast agent {version()}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    boot = verbs.add_parser("boot", help="do what the kernel command line says (the boot image)")
    boot.add_argument("--cmdline", type=Path, default=Path("/proc/cmdline"))
    boot.set_defaults(run=start.boot)

    network = verbs.add_parser("network", help="bring the network up as the kernel arguments say")
    network.add_argument("--cmdline", type=Path, default=Path("/proc/cmdline"))
    network.set_defaults(run=start.network)

    inspect = verbs.add_parser("inspect", help="show what this machine is; change nothing")
    inspect.add_argument("--json", action="store_true", help="the inventory as JSON")
    inspect.add_argument("--lldp-seconds", type=int, default=0, metavar="S")
    inspect.set_defaults(run=by_hand.inspect)

    plan = verbs.add_parser("plan", help="show what deploy would do; write nothing")
    _add_sources(plan)
    _add_deploy(plan)
    plan.add_argument("--json", action="store_true", help="the plan as JSON, with its digest")
    plan.set_defaults(run=by_hand.plan)

    deploy = verbs.add_parser("deploy", help="put a template on a disk of this machine")
    _add_sources(deploy)
    _add_deploy(deploy)
    _add_yes(deploy)
    deploy.set_defaults(run=by_hand.deploy)

    capture = verbs.add_parser("capture", help="make a template of a disk; the disk is only read")
    _add_store(capture, required=False)
    capture.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="store it there instead of on a server: metalcast template import takes it from there",
    )
    capture.add_argument("--name", required=True, help="the template's name")
    capture.add_argument(
        "--level", type=int, metavar="1..19", help="zstd level; else as the upload allows"
    )
    capture.add_argument(
        "--parent", metavar="NAME[:TAG][@DIGEST]", help="upload only what differs from it"
    )
    capture.add_argument(
        "--keep-identity", action="store_true", help="keep SSH host keys and the like in it"
    )
    capture.add_argument(
        "--accept-damage", action="store_true", help="store what cannot be read as zeros"
    )
    _add_disk(capture)
    _add_yes(capture)
    capture.set_defaults(run=by_hand.capture)

    rescue = verbs.add_parser("rescue", help="ask a person at the console, then capture")
    rescue.add_argument("--cmdline", type=Path, default=Path("/proc/cmdline"))
    rescue.set_defaults(run=start.rescue_by_hand)
    return top


def _add_store(verb: argparse.ArgumentParser, *, required: bool = True) -> None:
    verb.add_argument("--server", required=required, metavar="URL", help="http://ADDRESS:8470")
    verb.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the operator's token, or a registry's"
    )


def _add_sources(verb: argparse.ArgumentParser) -> None:
    _add_store(verb, required=False)
    group = verb.add_argument_group("where the template is, if not on --server alone")
    group.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="URL",
        help="https://HOST/v2/NAME, or the URL of a folder with an exported template; several are "
        "mirrors, asked in this order, before --server; or one folder of this machine",
    )
    group.add_argument("--user", metavar="NAME", help="for the sources")
    group.add_argument("--password-file", type=Path, metavar="FILE")
    group.add_argument("--ca", type=Path, metavar="FILE", help="whom to trust for the sources' TLS")


def _add_disk(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("which disk (exactly one must match)")
    for hint in ("serial", "wwn", "model", "vendor", "hctl", "by-path", "transport", "size"):
        group.add_argument(f"--disk-{hint}", metavar=hint.upper())
    group.add_argument("--disk-name", metavar="NAME", help="as the kernel calls it today; weakest")
    group.add_argument(
        "--disk",
        action="append",
        default=[],
        dest="role_hints",
        metavar="ROLE:HINT=VALUE",
        help="one of several disks: disk1:serial=XYZ; repeatable",
    )
    group.add_argument(
        "--luks-passphrase", type=Path, metavar="FILE", help="its first line opens LUKS"
    )


def _add_deploy(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--template", required=True, metavar="NAME[:TAG][@DIGEST]")
    verb.add_argument("--hostname")
    verb.add_argument("--authorized-key", type=Path, action="append", default=[], metavar="FILE")
    verb.add_argument("--network", type=Path, metavar="FILE", help="network-config v2, as JSON")
    verb.add_argument("--grow", default="/", metavar="MOUNT", help="gets the rest of the disk")
    verb.add_argument("--no-grow", dest="grow", action="store_const", const=None)
    verb.add_argument(
        "--layout", type=Shape, choices=list(Shape), default=Shape.SAME, help="another layout"
    )
    verb.add_argument("--consent", action="append", default=[], metavar="WHAT")
    verb.add_argument("--verify", type=Verify, choices=list(Verify), default=Verify.SAMPLE)
    _add_disk(verb)


def _add_yes(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--yes", action="store_true", help="do not ask before it begins")


def _failure(error: AgentError) -> str:
    page = failure_page(failure_of(error))
    try:
        lack = read_keyring().lack
    except TrustError:  # then it is what the page is about
        return page
    return with_lack(page, lack)


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status of the table in agent.errors."""
    args = parser().parse_args(words)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except AgentError as error:
        usage = isinstance(error, UsageError)
        text = f"error: {error}" if usage else _failure(error)
        if usage and error.hint:
            text += f"\n  try      {error.hint}"
        print(text, file=sys.stderr)
        return exit_status(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return ExitStatus.REFUSED
