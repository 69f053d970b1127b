"""How one hint is read: Ironic's operators for text and for sizes. Pure."""

import operator
import re
from collections.abc import Callable
from typing import Final

from agent.errors import UsageError
from agent.units import GiB, parse_bytes

_SIZE: Final = re.compile(r"(>=|<=|==|!=|=|>|<)?\s*(\d.*)")
_RANGE: Final = re.compile(r"<range-in>\s*([\[(])\s*(\S+)\s+(\S+)\s*([\])])")
_NEAR: Final = 0.01
"""Makers round sizes: `==480GB` is met within one percent."""
_TEXT_OPERATOR: Final = re.compile(r"(s==|s!=|s>=|s<=|s>|s<|<in>|<all-in>|<or>)\s*(\S.*)")
_NO_TEXT_OPERATOR: Final = re.compile(r"<[a-z-]+>|[=<>!]=|[<>]\s|s[=!<>]=?\s*$")
_COMPARING: Final[dict[str, Callable[[str, str], bool]]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s>=": operator.ge,
    "s<=": operator.le,
    "s>": operator.gt,
    "s<": operator.lt,
}
_BY_PATH: Final = "/dev/disk/by-path/"
_WWN_DIGITS: Final = 16
"""A WWN without its extension, which tells the volumes of one RAID controller apart."""


def is_exact(text: str | None) -> bool:
    """The hint says what the value is, not merely what it is like."""
    if text is None:
        return False
    found = _TEXT_OPERATOR.fullmatch(text.strip())
    return found is None or found[1] == "s=="


def text_test(name: str, text: str) -> Callable[[str], bool]:
    """Return the test that the text hint `name` means, on the drive's own value.

    `TEXT` and `s== TEXT` are equality, in any case and spacing. Raises UsageError for an
    operator that is none of Ironic's for text.
    """
    text = text.strip()
    found = _TEXT_OPERATOR.fullmatch(text)
    if not found:
        if _NO_TEXT_OPERATOR.match(text):
            raise UsageError(
                f"disk {name} {text!r} cannot be read",
                hint="write TEXT, <in> TEXT, s== TEXT, s!= TEXT, <or> A <or> B or <all-in> A B",
            )
        return lambda has: _equal(name, plain(name, has), plain(name, text))
    sign, rest = found.groups()
    match sign:
        case "<in>":
            return lambda has: plain(name, rest) in plain(name, has)
        case "<all-in>":
            words = [plain(name, word) for word in rest.split()]
            return lambda has: all(word in plain(name, has) for word in words)
        case "<or>":
            either = [plain(name, one) for one in rest.split("<or>")]
            return lambda has: any(_equal(name, plain(name, has), one) for one in either)
        case "s==":
            return lambda has: _equal(name, plain(name, has), plain(name, rest))
        case "s!=":
            return lambda has: not _equal(name, plain(name, has), plain(name, rest))
        case _:
            compare = _COMPARING[sign]
            return lambda has: compare(plain(name, has), plain(name, rest))


def plain(name: str, text: str) -> str:
    """Return a value of the hint `name` without what each tool writes its own way."""
    text = text.strip()
    match name:
        case "wwn":
            return re.sub(r"^(?:wwn-|nvme-(?=eui\.))?(?:0x|naa\.|eui\.)?", "", text.lower())
        case "by_path":
            return text.removeprefix(_BY_PATH).casefold()
        case "name":
            return text.removeprefix("/dev/")
        case _:
            return " ".join(text.split()).casefold()


def _equal(name: str, has: str, wanted: str) -> bool:
    if name == "wwn" and len(wanted) == _WWN_DIGITS and len(has) == 2 * _WWN_DIGITS:
        return has.startswith(wanted)  # given as Ironic's `wwn`, not its `wwn_with_extension`
    return has == wanted


def size_test(text: str) -> Callable[[int], bool]:
    """Return the test that a size hint means: `>=100GiB`, `<2TB`, `==480GB`, `447` (whole GiB).

    `<range-in> [ 100 200 )` is Ironic's, in GiB unless a unit is given; a round bracket leaves
    the bound itself out. Raises UsageError for anything else.
    """
    if found := _RANGE.fullmatch(text.strip()):
        opening, low, high, closing = found.groups()
        least = size_test((">=" if opening == "[" else ">") + low)
        most = size_test(("<=" if closing == "]" else "<") + high)
        return lambda size: least(size) and most(size)
    found = _SIZE.fullmatch(text.strip())
    try:
        if not found:
            raise ValueError(f"not a size: {text!r}")
        sign, number = found.groups()
        in_gib = number.isdecimal()
        wanted = int(number) * GiB if in_gib else parse_bytes(number)
    except ValueError as error:
        raise UsageError(
            f"disk size {text!r} cannot be read", hint="write >=100GiB, <=2TiB, ==480GB, or GiB"
        ) from error
    match sign:
        case ">=":
            return lambda size: size >= wanted
        case "<=":
            return lambda size: size <= wanted
        case ">":
            return lambda size: size > wanted
        case "<":
            return lambda size: size < wanted
        case _ if in_gib:
            same: Callable[[int], bool] = lambda size: size // GiB == wanted // GiB  # noqa: E731
        case _:
            same = lambda size: abs(size - wanted) <= _NEAR * wanted  # noqa: E731
    return (lambda size: not same(size)) if sign == "!=" else same
