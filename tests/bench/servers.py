"""nginx over a folder, on loopback: what templates and the peers' images are served by."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.daemons import wait_for_port
from tests.harness.machine import free_port

_CONFIG = """\
{user}
worker_processes auto;
daemon off;
pid {work}/nginx.pid;
error_log {work}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_body_temp_path {work}/nginx-body;
    proxy_temp_path {work}/nginx-proxy;
    fastcgi_temp_path {work}/nginx-fastcgi;
    uwsgi_temp_path {work}/nginx-uwsgi;
    scgi_temp_path {work}/nginx-scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextmanager
def nginx(root: Path, work: Path) -> Iterator[str]:
    """Serve `root` as it is; yield the URL."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    config.write_text(_CONFIG.format(user=user, work=work, port=port, root=root))
    process = subprocess.Popen(
        ["/usr/sbin/nginx", "-e", str(work / "nginx.log"), "-c", str(config)],
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
