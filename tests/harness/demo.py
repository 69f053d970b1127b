"""`scripts/demo`: one working server becomes two, before your eyes, and each claim is proven."""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from tests.harness.flow import Flow
from tests.harness.image import boot_image
from tests.harness.proofs import PROOFS
from tests.harness.source import source_disk


def main() -> int:
    arguments = _arguments()
    began = time.monotonic()
    out = sys.stderr if arguments.json else sys.stdout

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=out, flush=True)

    # A polite end, also when we are told to end: nothing of ours may run on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="metalcast-demo-"))
    stages: list[tuple[str, float]] = []
    flow: Flow | None = None
    failure: str | None = None
    keep = False
    try:
        tell("── make the source server's disk (kept for the next time)")
        made = source_disk()
        stages.append(("make the source server's disk", time.monotonic() - began))
        tell("── build the boot image (kept for the next time)")
        at = time.monotonic()
        image = boot_image()
        stages.append(("build the boot image", time.monotonic() - at))
        flow = Flow(arguments.firmware, folder, image, made, tell)
        _run(flow)
        keep = arguments.keep
    except (AssertionError, RuntimeError, OSError, TimeoutError) as error:
        failure = str(error)
    finally:
        if flow and not keep:
            flow.stop()
    stages += flow.stages if flow else []
    holds = _summary(flow, stages, failure, arguments, time.monotonic() - began)
    if flow and keep:
        _say_how_to_go_on(flow, out)
    elif holds and flow:
        flow.clean()
    else:
        print(f"logs and disks are in {folder}", file=sys.stderr)
    return 0 if holds else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Capture a server, deploy it to another one, and prove that it worked.",
    )
    parser.add_argument("--firmware", choices=("bios", "uefi"), default="bios")
    parser.add_argument("--keep", action="store_true", help="leave server and target running")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser.parse_args()


def _run(flow: Flow) -> None:
    flow.start_server()
    lived = flow.live_in()
    flow.capture(lived)
    flow.deploy(lived)
    flow.first_boot(lived)


def _summary(
    flow: Flow | None,
    stages: list[tuple[str, float]],
    failure: str | None,
    arguments: argparse.Namespace,
    seconds: float,
) -> bool:
    """Print what was proven and how long it took; return whether all was."""
    proofs = {proof.name: proof for proof in (flow.proofs if flow else [])}
    holds = failure is None and all(name in proofs and proofs[name].holds for name in PROOFS)
    if arguments.json:
        page = {
            "ok": holds,
            "firmware": arguments.firmware,
            "failure": failure,
            "seconds": round(seconds, 1),
            "stages": [{"name": name, "seconds": round(took, 1)} for name, took in stages],
            "proofs": [
                {
                    "name": name,
                    "claim": claim,
                    "holds": name in proofs and proofs[name].holds,
                    "seen": proofs[name].seen if name in proofs else None,
                }
                for name, claim in PROOFS.items()
            ],
        }
        print(json.dumps(page, indent=2, ensure_ascii=False))
        return holds
    print(f"\nWhat was proven ({arguments.firmware})")
    for name, claim in PROOFS.items():
        mark = "not reached" if name not in proofs else "yes" if proofs[name].holds else "NO"
        print(f"  {mark:12} {claim}")
        if name in proofs:
            print(f"  {'':12}   {proofs[name].seen}")
    print("\nSeconds")
    for stage, took in stages:
        print(f"  {took:7.1f}  {stage}")
    print(f"  {seconds:7.1f}  all\n")
    if failure:
        print(f"failed: {failure}", file=sys.stderr)
    print("All proven." if holds else "NOT all proven.")
    return holds


def _say_how_to_go_on(flow: Flow, out: TextIO) -> None:
    target, server = flow.target, flow.server.process
    if target is None or server is None:
        return
    target.detach()
    lines = [
        "Still running:",
        f"  the server   {flow.server.url}  (process {server.pid})",
        f"               operator token in {flow.server.token_file}",
        f"  the target   process {target.process.pid}",
        f"  log in       {' '.join(flow.ssh.words())}",
        f"  stop         kill {target.process.pid} {server.pid}; rm -r {flow.folder}",
    ]
    print("\n".join(lines), file=out)


if __name__ == "__main__":
    sys.exit(main())
