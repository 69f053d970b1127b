"""The recipe and the agent agree: what the agent runs is in the image."""

import ast
from collections.abc import Iterator
from pathlib import Path

from images.globs import Chosen
from images.recipe import SHIPPED, read_recipe

AGENT = Path(__file__).parents[2] / "agent"


def programs(source: str) -> Iterator[str]:
    """Yield the first word of each literal list that is given to something called `run`."""
    for node in ast.walk(ast.parse(source)):
        if (
            not isinstance(node, ast.Call)
            or not node.args
            or not isinstance(node.args[0], ast.List)
        ):
            continue
        called = node.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        words = node.args[0].elts
        if not name.endswith("run") or not words or not isinstance(words[0], ast.Constant):
            continue
        yield str(words[0].value)


def test_what_the_agent_runs_is_in_the_image() -> None:
    called = {
        name: path.name
        for path in sorted(AGENT.rglob("*.py"))
        for name in programs(path.read_text(encoding="utf-8"))
    }
    assert {"sfdisk", "mount", "udevadm", "e2fsck"} <= set(called)
    recipe = read_recipe(SHIPPED)
    kept = Chosen(recipe.keep)
    missing = {
        name: where
        for name, where in called.items()
        if name not in recipe.applets
        and not any(f"usr/{folder}/{name}" in kept for folder in ("bin", "sbin"))
    }
    assert missing == {}
