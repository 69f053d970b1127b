"""From what a person or a server says to a source of templates: URLs, logins, mirrors."""

from collections.abc import Callable, Sequence
from pathlib import Path

from agent.errors import ServerError
from agent.model.mirror import Mirror, split_source
from agent.store.auth import Login, LoginDoor
from agent.store.folder import FolderSource
from agent.store.mirrors import Mirrors, WebSource
from agent.store.registry import RegistryClient
from agent.store.retry import Retry


def open_source(
    url: str,
    *,
    login: Login | None = None,
    ca: Path | None = None,
    retry: Retry | None = None,
) -> WebSource:
    """Return what `url` names: `…/v2/NAME` a registry's repository, else a folder with a layout.

    Raises ServerError if it is no such URL.
    """
    try:
        base, repository = split_source(url)
    except ValueError as error:
        raise ServerError(
            f"not the URL of a source: {url[:200]!a}: {error}",
            hint="write https://HOST/v2/NAME for a registry, https://HOST/FOLDER for a folder",
        ) from error
    door = LoginDoor(login, base, repository)
    trusted = str(ca) if ca else None
    if repository is None:
        return FolderSource(base, door=door, retry=retry, ca=trusted)
    return RegistryClient(base, repository, door=door, retry=retry, ca=trusted)


def open_mirrors(
    mirrors: Sequence[Mirror],
    server: RegistryClient,
    folder: Path,
    warn: Callable[[str], None],
) -> Mirrors:
    """Return the sources of a job in the order in which they are asked, `server` among them.

    Certificates are kept as files in `folder`.
    """
    opened: dict[bool, list[WebSource]] = {True: [], False: []}
    for number, mirror in enumerate(mirrors):
        login = None
        if mirror.username is not None:
            login = Login(mirror.username, mirror.password or "")
        ca = None
        if mirror.ca is not None:
            folder.mkdir(parents=True, exist_ok=True)
            ca = folder / f"mirror-{number}.pem"
            ca.write_text(mirror.ca)
        source = open_source(mirror.url, login=login, ca=ca, retry=Retry(attempts=1))
        opened[mirror.first].append(source)
    return Mirrors([*opened[True], server, *opened[False]], warn=warn)
