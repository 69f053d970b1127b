"""The store over HTTP: OCI Distribution 1.1 under `/v2/`.

`registry_routes(store, authorize)` gives the routes that the server mounts; `tidy` is the task that
sweeps what was left behind.
"""

from netboot.registry.routes import registry_routes, tidy
from netboot.registry.wire import Action, Authorize

__all__ = ["Action", "Authorize", "registry_routes", "tidy"]
