"""The medium's menu: every entry boots, and nothing that is given can become more than a word."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bootargs import parse_bootargs
from agent.errors import UsageError
from images.iso import parse_cmdline, render_menu


def kernel_lines(menu: str) -> list[str]:
    return re.findall(r"^  linux /boot/vmlinuz (.*)$", menu, re.MULTILINE)


def test_the_first_entry_is_the_rescue_menu_on_every_console() -> None:
    menu = render_menu(parse_cmdline("metalcast.server=http://10.0.0.5:8470"), "boot/marker")
    first, *_ = kernel_lines(menu)
    assert "set default=0" in menu
    args = parse_bootargs(first)
    assert (args.mode, args.server) == ("rescue", "http://10.0.0.5:8470")
    assert args.consoles == ("ttyS0,115200", "tty0")


def test_every_entry_is_one_that_the_agent_understands() -> None:
    lines = kernel_lines(render_menu((), "boot/marker"))
    assert [parse_bootargs(line).mode for line in lines] == ["rescue", "rescue", "shell", "shell"]


def test_a_given_mode_replaces_the_menus_own_but_a_shell_stays_a_shell() -> None:
    lines = kernel_lines(render_menu(parse_cmdline("metalcast.mode=inspect"), "boot/marker"))
    assert [parse_bootargs(line).mode for line in lines] == ["inspect", "inspect", "shell", "shell"]


@pytest.mark.parametrize(
    "word",
    ["a;reboot", "a=$(x)", 'a="b"', "a='b'", "a=b\\", "{", "a=`x`", "a&b", "a|b", "=x", "a>b"],
)
def test_what_grub_would_read_as_more_than_a_word_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        parse_cmdline(f"quiet {word}")


@given(st.text(max_size=60))
def test_no_text_gets_out_of_its_line(text: str) -> None:
    try:
        words = parse_cmdline(text)
    except UsageError:
        return
    menu = render_menu(words, "boot/marker")
    assert menu.count("\n") == render_menu((), "boot/marker").count("\n")
    assert all(not set(line) & set(";{}$`'\"\\&|<>") for line in kernel_lines(menu))
