"""nginx over a folder, on loopback: what templates and the peers' images are served by."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.harness.daemons import wait_for_port
from tests.harness.machine import free_port

_CONFIG: Final = """\
{user}
worker_processes auto;
daemon off;
pid {work}/nginx.pid;
error_log {work}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    log_format counted '$body_bytes_sent';
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_body_temp_path {work}/nginx-body;
    proxy_temp_path {work}/nginx-proxy;
    fastcgi_temp_path {work}/nginx-fastcgi;
    uwsgi_temp_path {work}/nginx-uwsgi;
    scgi_temp_path {work}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location /counted/ {{
            alias {root}/;
            access_log {log} counted;
        }}
    }}
}}
"""
_SETTLED_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Nginx:
    """One nginx. What is asked for at `counted_url` is counted; at `url` nothing is."""

    url: str
    log: Path

    @property
    def counted_url(self) -> str:
        return f"{self.url}/counted"

    def counted_bytes(self) -> int:
        """Return what the bodies of all counted answers had, by the server's own log.

        It is written when an answer has ended for the server: this waits until no more comes.
        """
        seen = -1
        while seen != (size := self.log.stat().st_size):
            seen = size
            time.sleep(_SETTLED_S)
        return sum(int(line) for line in self.log.read_text().split())


@contextmanager
def nginx(root: Path, work: Path) -> Iterator[Nginx]:
    """Serve `root` as it is."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config, log = work / "nginx.conf", work / "nginx-counted.log"
    config.write_text(_CONFIG.format(user=user, work=work, port=port, root=root, log=log))
    process = subprocess.Popen(
        ["/usr/sbin/nginx", "-e", str(work / "nginx.log"), "-c", str(config)],
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        yield Nginx(f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait(10)
