"""The golden trees: each case is an input.yaml and what every stack makes of it.

    METALCAST_REGENERATE=1 pytest tests/golden/network

writes them anew; then read the difference before you commit it.
"""

import json
from pathlib import Path
from typing import Final

from agent.errors import PlanRefused
from agent.model.inventory import Nic
from agent.model.network import NetworkConfig, parse_network_yaml
from agent.model.template import NetworkStack
from agent.model.wire import convert
from agent.network import RenderedTree, render_network

HERE: Final = Path(__file__).parent
CASES: Final = sorted(path.parent.name for path in HERE.glob("*/input.yaml"))
REFUSED: Final = "refused.txt"
INDEX: Final = "files.txt"


def config_of(case: str) -> NetworkConfig:
    return parse_network_yaml((HERE / case / "input.yaml").read_text())


def nics_of(case: str) -> tuple[Nic, ...]:
    path = HERE / case / "nics.json"
    if not path.exists():
        return ()
    return convert(json.loads(path.read_text()), tuple[Nic, ...], path.name)


def tree_of(case: str, stack: NetworkStack) -> RenderedTree:
    return render_network(config_of(case), stack, nics_of(case))


def rendered(case: str, stack: NetworkStack) -> dict[str, str]:
    """Return the golden files of one case and stack by their path under CASE/STACK/.

    `files.txt` holds modes and conditions; a stack that refuses has its reasons in `refused.txt`.
    """
    try:
        tree = tree_of(case, stack)
    except PlanRefused as refused:
        return {REFUSED: "".join(f"{reason}\n" for reason in refused.objections)}
    lines = []
    for path, file in tree.files.items():
        words = [f"{file.mode:04o}", path]
        if file.only_if:
            words.append(f"only-if={file.only_if}")
        if file.keep_link:
            words.append("keep-link")
        lines.append(" ".join(words))
    lines += [f"needs {path}: {why}" for path, why in tree.needs]
    golden = {path.lstrip("/"): file.text for path, file in tree.files.items()}
    return golden | {INDEX: "".join(f"{line}\n" for line in lines)}


def stored(case: str, stack: NetworkStack) -> dict[str, str]:
    folder = HERE / case / stack.value
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def regenerate(case: str, stack: NetworkStack) -> None:
    folder = HERE / case / stack.value
    for name in stored(case, stack):
        (folder / name).unlink()
    for name, text in rendered(case, stack).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def lay_out(case: str, stack: NetworkStack, root: Path) -> list[Path]:
    """Write the tree of one case below `root`, as a target would have it; return the files."""
    written = []
    for path, file in tree_of(case, stack).files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(file.text)
        place.chmod(file.mode)
        written.append(place)
    return written
