"""YAML, read strictly: for documents that a person writes. Not part of the boot image."""

import re
from typing import Any

import yaml


def read_yaml(text: str) -> Any:
    """Return the document in `text`. Raises ValueError, one line, for anything that is none."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - made from SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases, without double keys and without numbers of base 60.

    YAML 1.1 reads the MAC 52:54:00:12:34:56 as a number of base 60, and 2026-11-23 as a date.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is there twice, or is no plain word", key_node.start_mark
                )
            keys.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


# The words of YAML 1.2, and yes, no, on and off, which netplan takes too.
for _tag, _pattern, _first in (
    (
        "bool",
        r"(?:true|True|TRUE|yes|Yes|on|On|false|False|FALSE|no|No|off|Off)\Z",
        list("tTyYoOfFnN"),
    ),
    ("int", r"(?:0|[1-9][0-9]{0,18})\Z", list("0123456789")),
    ("null", r"(?:null|~|)\Z", ["n", "~", ""]),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
