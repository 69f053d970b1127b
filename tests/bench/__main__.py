"""`scripts/bench`: what Metalcast takes, beside its peers in the same run; a JSON line a figure."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from tests.bench.capture import capture
from tests.bench.deploy import deploy
from tests.bench.flatness import flatness
from tests.bench.incremental import PERCENT, incremental
from tests.bench.line import Line
from tests.bench.memory import SIZES, memory
from tests.bench.per_chunk import WAYS, per_chunk
from tests.bench.redeploy import PERCENTS, redeploy
from tests.bench.rounds import LEAST_ROUNDS, BenchFailed, say
from tests.bench.setting import Setting, setting
from tests.harness.daemons import NotStarted

Bench = Callable[[Setting, Sequence[str]], Iterator[Line]]
BENCHES: Final[Mapping[str, Bench]] = {
    "deploy_vs_partclone": deploy,
    "deploy_vs_dd": deploy,
    "deploy_vs_write_limit": deploy,
    "capture_vs_partclone": capture,
    "capture_size_vs_partclone": capture,
    "capture_to_registry_vs_partclone": capture,
    **{f"redeploy_{what}_{one}pct": redeploy for what in ("bytes", "time") for one in PERCENTS},
    f"incremental_bytes_{PERCENT}pct": incremental,
    **{f"peak_memory_{way}_{size}": memory for size in SIZES for way in ("capture", "deploy")},
    "disk_size_flatness": flatness,
    "disk_size_flatness_ext4": flatness,
    **dict.fromkeys(WAYS, per_chunk),
}


def main(arguments: Sequence[str]) -> int:
    """Print the lines. Returns 0 also where a target is missed, 1 where there is no figure."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is named")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--quick", action="store_true", help=f"{LEAST_ROUNDS} rounds instead of 5")
    parser.add_argument("--rounds", type=int, help=f"so many rounds, at least {LEAST_ROUNDS}")
    parser.add_argument("--small", action="store_true", help="1 GiB of data instead of 5.9")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(BENCHES))
        return 0
    names: list[str] = options.names or list(BENCHES)
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"no such bench: {', '.join(unknown)}; --list names them")
    rounds: int = options.rounds
    if rounds is None:
        rounds = LEAST_ROUNDS if options.quick else 5
    if rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {rounds}: a figure needs at least {LEAST_ROUNDS} runs")
    failed = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is put away
    with setting(rounds, is_quick=options.quick, wants_small=options.small) as here:
        for bench in dict.fromkeys(BENCHES[name] for name in names):
            mine = [name for name in names if BENCHES[name] is bench]
            try:
                for line in bench(here, mine):
                    print(line.as_json(), flush=True)
            except (BenchFailed, NotStarted) as error:
                say(f"{', '.join(mine)}: no figure: {error}")
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
