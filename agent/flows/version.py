"""Which release this is."""

from importlib import metadata

UNKNOWN = "0.1.0"


def version() -> str:
    """Return the release of Metalcast that this agent belongs to."""
    try:
        return metadata.version("metalcast")
    except metadata.PackageNotFoundError:
        return UNKNOWN  # the boot image has the package without its metadata
