"""Modules of the tests that run in processes of their own and print an answer, a JSON object."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def answer_of(module: str, *words: str | Path | int) -> dict[str, Any]:
    """Run `python -m MODULE WORDS` to its end and return what it printed."""
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
