"""Places as a person writes them, and the line that says how far a copy has got."""

import io

import pytest

from agent.errors import UsageError
from netboot.cli.meter import Meter, meter_line
from netboot.cli.template_places import Place, parse_folder, parse_place

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "kind", "where", "reference"),
    [
        ("web", "store", "web", "latest"),
        ("prod/web:v1", "store", "prod/web", "v1"),
        (f"web@{DIGEST}", "store", "web", DIGEST),
        (f"web:v1@{DIGEST}", "store", "web", DIGEST),
        ("https://host/v2/web", "url", "https://host/v2/web", "latest"),
        ("https://host:5000/v2/a/b:v1", "url", "https://host:5000/v2/a/b", "v1"),
        (f"http://host/v2/web@{DIGEST}", "url", "http://host/v2/web", DIGEST),
        ("http://[::1]:80/exports/web:v1", "url", "http://[::1]:80/exports/web", "v1"),
        ("./web", "folder", "./web", "latest"),
        ("/mnt/usb/web:v1", "folder", "/mnt/usb/web", "v1"),
        ("oci:web:v1", "folder", "web", "v1"),
        ("oci:web", "folder", "web", "latest"),
        ("/mnt/12:00/web", "folder", "/mnt/12:00/web", "latest"),
    ],
)
def test_places(text: str, kind: str, where: str, reference: str) -> None:
    assert parse_place(text) == Place(text, kind, where, reference)


def test_whatever_is_said_to_be_a_folder_is_one() -> None:
    assert parse_folder("web:v1").where == "web"
    assert parse_folder("web").kind == "folder"


@pytest.mark.parametrize(
    "text",
    ["Web", "web:", "web:a b", "web@sha256:12", "https://host", "https://ada:x@host/v2/web", "~x"],
)
def test_what_is_no_place_says_what_would_be(text: str) -> None:
    if text == "web:":
        assert parse_place(text).reference == "latest"
        return
    with pytest.raises(UsageError):
        parse_place(text)


def test_a_digest_is_no_tag_for_a_target() -> None:
    with pytest.raises(UsageError, match="give a tag there"):
        _ = parse_place(f"web@{DIGEST}").tag


def test_the_line_has_share_rate_and_time_left() -> None:
    line = meter_line("copying web", 256 * 2**20, 1024 * 2**20, 4.0)
    assert line == "copying web: 25 % · 256.0 MiB of 1.0 GiB · 64.0 MiB/s · 12 s left"
    assert meter_line("reading", 0, 0, 0.0) == "reading: 0 B of 0 B"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_short_command_says_nothing_in_a_log_and_leaves_a_terminal_clean() -> None:
    log = io.StringIO()
    meter = Meter("copying", stream=log)
    meter(1, 2)
    meter.end()
    assert log.getvalue() == ""
    screen = Terminal()
    meter = Meter("copying", stream=screen, began=-1000.0)
    meter(1, 2)
    meter.end()
    assert screen.getvalue().startswith("\rcopying: 50 %")
    assert screen.getvalue().endswith("\r")
