"""Where the text that we render is found."""

import os
import sys
from pathlib import Path
from typing import Final

import agent
from agent.errors import AgentError

INSTALLED: Final = Path("/usr/share/metalcast/templates")


def find_templates() -> Path:
    """Return the folder `templates`: $METALCAST_TEMPLATES, else beside `agent`, else installed.

    Raises AgentError if there is none.
    """
    given = os.environ.get("METALCAST_TEMPLATES")
    beside = Path(agent.__file__).resolve().parent.parent / "templates"
    own = Path(sys.prefix) / "share" / "metalcast" / "templates"
    places = (Path(given),) if given else (beside, own, INSTALLED)
    for place in places:
        if (place / "network").is_dir():
            return place
    where = " or ".join(str(place) for place in places)
    raise AgentError(f"the text that we render is not in {where}", hint="set METALCAST_TEMPLATES")
