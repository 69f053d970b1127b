"""Peak memory: of this process, and of the programs that it runs."""

import re
import threading
from pathlib import Path
from typing import Final

_EVERY_S: Final = 0.02
_PEAK: Final = re.compile(r"VmHWM:\s*(\d+) kB")


def peak_bytes(process: int | None = None) -> int:
    """Return the peak of one process alone, this one if none is named; 0 if it has ended.

    getrusage would not do: a child's begins with the memory of the parent that started it, which
    RUSAGE_CHILDREN then shows, were it but `true` that ran.
    """
    try:
        found = _PEAK.search(Path(f"/proc/{process or 'self'}/status").read_text())
    except OSError:
        return 0
    assert found or process, "this process has a peak"
    return int(found[1]) * 1024 if found else 0


class ChildrenPeaks:
    """Looks at the children of this process all the time: `by_name` has each program's peak."""

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}
        self._own = Path("/proc/self/exe").resolve()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._stop = threading.Event()

    def __enter__(self) -> "ChildrenPeaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(_EVERY_S):
            for task in Path("/proc/self/task").iterdir():
                try:
                    children = (task / "children").read_text().split()
                except OSError:  # the thread has ended
                    continue
                for child in map(int, children):
                    self._note(child)

    def _note(self, child: int) -> None:
        try:
            program = Path(f"/proc/{child}/exe").readlink()
        except OSError:  # it has ended
            return
        if program != self._own and (peak := peak_bytes(child)):  # it is, until its exec
            self.by_name[program.name] = max(peak, self.by_name.get(program.name, 0))
