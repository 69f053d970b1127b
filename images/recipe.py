"""The recipe of an image: which packages, what of them is kept, which drivers."""

import tomllib
from pathlib import Path

from agent.errors import AgentError
from agent.model.wire import BadDocument, Value, convert

SHIPPED = Path(__file__).parent / "agent.toml"


class Firmware(Value, frozen=True, kw_only=True):
    """Device firmware that Debian may not call free; in the image only when asked for."""

    components: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


class Kernel(Value, frozen=True, kw_only=True):
    """Which drivers, by their path in the kernel package; what they depend on comes along."""

    early: tuple[str, ...]
    modules: tuple[str, ...]


class Python(Value, frozen=True, kw_only=True):
    """What is left out of the standard library."""

    drop: tuple[str, ...] = ()


class Recipe(Value, frozen=True, kw_only=True):
    suite: str
    components: tuple[str, ...] = ("main",)
    packages: tuple[str, ...]
    keep: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    applets: tuple[str, ...]
    kernel: Kernel
    python: Python = Python()
    firmware: Firmware = Firmware()


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in the TOML file `path`; unknown or missing fields are refused."""
    try:
        text = path.read_text()
    except OSError as error:
        raise AgentError(f"cannot read the recipe {path}: {error.strerror}") from error
    try:
        return convert(tomllib.loads(text), Recipe, str(path))
    except tomllib.TOMLDecodeError as error:
        raise BadDocument(f"{path}: {error}") from error
