"""Jinja, with as little of it as rendering needs."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.model.places import find_templates


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Return the text of `templates/network/TEMPLATE` with `values` in it.

    A name that the template uses and `values` lacks is an error, and so is any value that would
    start a line of its own.
    """
    return _environment(find_templates()).get_template(template).render(values)


@cache
def _environment(folder: Path) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(folder / "network"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # no markup here; the grammar and `_one_line` guard the values
        finalize=_one_line,
    )
    environment.globals.clear()
    environment.filters = {"join": environment.filters["join"]}
    environment.tests.clear()
    return environment


def _one_line(value: Any) -> str:
    """Return `value` as text. Raises ValueError for what could end a line: the last fence."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"a template may print text and numbers, not {value!r}")
    text = str(value)
    if not all(" " <= c <= "~" for c in text):
        raise ValueError(f"a value that is not printable ASCII on one line: {text!a}")
    return text
