"""What reaches a boot script passes a grammar, or does not get in."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from netboot import grammar, ipxe

MACHINE = "52-54-00-12-34-56"
SERVER = "http://10.0.2.2:8470"
SAFE = set(string.ascii_letters + string.digits + "._,:=/@+-")


@pytest.mark.parametrize(
    "word", ["console=ttyS1,9600", "metalcast.on_error=shell", "ip=10.0.0.2::10.0.0.1", "quiet"]
)
def test_a_kernel_argument_passes(word: str) -> None:
    assert grammar.parse_word(word) == word


@pytest.mark.parametrize(
    "word",
    ["", "a b", "a\nboot", "a${uuid}", "a;b", "a||b", "a&&b", "a'b", 'a"b', "a#b", "a\\b", "ä"],
)
def test_what_could_mean_something_to_ipxe_is_no_kernel_argument(word: str) -> None:
    with pytest.raises(UsageError):
        grammar.parse_word(word)
    with pytest.raises(ValueError, match="not fit"):
        ipxe.render_agent(MACHINE, SERVER, extra=(word,))


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.5:8470",
        "https://boot.example",
        "http://[fd00::1]:8470",
        "http://boot.example/metalcast/",
    ],
)
def test_a_url_passes_without_its_last_slash(url: str) -> None:
    assert grammar.parse_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "10.0.0.5:8470",
        "ftp://10.0.0.5",
        "http://user:secret@10.0.0.5",
        "http://10.0.0.5:8470/a b",
        "http://10.0.0.5:8470\n",
        "http://${net0/ip}",
        "http://10.0.0.5/?q=1",
        "http://-x",
        "http://",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError):
        grammar.parse_url(url)


@given(st.text(max_size=60))
def test_no_text_gets_into_a_script_unless_every_letter_is_safe(text: str) -> None:
    try:
        script = ipxe.render_agent(MACHINE, SERVER, extra=(text,))
    except ValueError:
        return
    assert text
    assert set(text) <= SAFE
    plain = ipxe.render_agent(MACHINE, SERVER)
    assert script.count("\n") == plain.count("\n")


@given(st.text(max_size=60))
def test_no_host_of_bad_grammar_passes(text: str) -> None:
    if grammar.HOST.fullmatch(text):
        assert set(text) <= set(string.ascii_lowercase + string.digits + ".-:[]")


@pytest.mark.parametrize(
    "value", ["", "52:54:00:12:34:56", MACHINE + "\n", "52-54-00-12-34-AF", "x"]
)
def test_no_other_machine_gets_into_a_script(value: str) -> None:
    with pytest.raises(ValueError, match="not fit"):
        ipxe.render_agent(value, SERVER)
    with pytest.raises(ValueError, match="not fit"):
        ipxe.render_disk(value, "reason")


def test_a_job_and_a_reason_of_bad_grammar_are_refused() -> None:
    with pytest.raises(ValueError, match="not fit"):
        ipxe.render_agent(MACHINE, SERVER, job="j-1\nboot")
    with pytest.raises(ValueError, match="not fit"):
        ipxe.render_disk(MACHINE, "done\nboot")
