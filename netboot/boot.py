"""Boot files and the script for each machine, under /boot/. Anyone may read them."""

from pathlib import Path
from typing import Any, Final

from aiohttp import web

from netboot import grammar, ipxe, jobs, machines
from netboot.auth import Access
from netboot.context import ANY_CHANGE, Context, context_of
from netboot.dnsmasq import IPXE_FOLDER, UEFI_IPXE
from netboot.policy import Boot, decide_boot
from netboot.problems import bad_request, not_found
from netboot.routes import Query, Route

SCRIPT: Final = "text/plain"
BINARY: Final = "application/octet-stream"
EFI: Final = "application/efi"
JOBS_LOOKED_AT: Final = 50


async def boot_script(request: web.Request) -> web.Response:
    del request
    return _script(ipxe.render_boot())


async def machine_script(request: web.Request) -> web.Response:
    """Register the machine and tell it what to boot."""
    context = context_of(request)
    machine = request.query.get("mac", "").lower()
    if not grammar.MACHINE.fullmatch(machine):
        raise bad_request("mac: expected hexadecimal digits and hyphens: 52-54-00-12-34-56")
    uuid = request.query.get("uuid", "").lower()
    known = uuid if grammar.UUID.fullmatch(uuid) else None

    def look(db: Any) -> tuple[Boot, str | None]:
        machines.see_machine(db, machine, context.at(), uuid=known)
        active = jobs.find_active(db, machine)
        decision = decide_boot(jobs.find_jobs(db, machine, JOBS_LOOKED_AT))
        return decision, active.id if active else None

    decision, job = await context.state.run(look)
    context.wakeups.wake(ANY_CHANGE)
    if decision is Boot.DISK:
        return _script(ipxe.render_disk(machine, "its last job is done"))
    if request.query.get("arch", "x86_64") not in ipxe.ARCHITECTURES:
        return _script(ipxe.render_disk(machine, "no agent for this architecture"))
    server = server_url(context, request)
    return _script(ipxe.render_agent(machine, server, job, context.settings.kernel_args))


def server_url(context: Context, request: web.Request) -> str:
    """Return the URL by which the machine reaches us: what we were told, else what it used."""
    if context.settings.public_url:
        return context.settings.public_url
    host = request.headers.get("Host", "").lower()
    if not grammar.HOST.fullmatch(host):
        raise bad_request("Host: expected NAME or ADDRESS, with or without :PORT")
    return f"http://{host}"


def _script(text: str) -> web.Response:
    return web.Response(text=text, content_type=SCRIPT, headers={"Cache-Control": "no-store"})


async def kernel(request: web.Request) -> web.StreamResponse:
    return _file(request, "vmlinuz")


async def initrd(request: web.Request) -> web.StreamResponse:
    return _file(request, "initrd.img")


async def uefi_ipxe(request: web.Request) -> web.StreamResponse:
    """Give iPXE to firmware that boots over HTTP; dnsmasq points it here."""
    del request
    path = IPXE_FOLDER / UEFI_IPXE
    if not path.is_file():
        raise not_found(f"there is no {UEFI_IPXE} on this server", "apt-get install ipxe")
    return web.FileResponse(path, headers={"Content-Type": EFI})


def _file(request: web.Request, name: str) -> web.StreamResponse:
    """Return one of two files, by a name of ours; the request has no say in the path."""
    folder = context_of(request).settings.image
    path: Path | None = folder / name if folder else None
    if path is None or not path.is_file():
        raise not_found(
            f"there is no {name} to boot", "metalcast build-image, then serve --image DIR"
        )
    return web.FileResponse(path, headers={"Content-Type": BINARY}, chunk_size=1024 * 1024)


ROUTES: Final = (
    Route(
        "GET",
        "/boot/boot.ipxe",
        Access.PUBLIC,
        boot_script,
        "The iPXE script that every machine loads first",
        media_type=SCRIPT,
    ),
    Route(
        "GET",
        "/boot/machine.ipxe",
        Access.PUBLIC,
        machine_script,
        "What this machine boots: the agent, or its disk",
        media_type=SCRIPT,
        query=(
            Query("mac", str, "the MAC it boots from, with hyphens"),
            Query("uuid", str, "its SMBIOS UUID"),
            Query("platform", str, "`pcbios` or `efi`"),
            Query("arch", str, "as iPXE's buildarch"),
            Query("asset", str, "its asset tag; not kept"),
        ),
        errors=(400, 507),
    ),
    Route(
        "GET",
        "/boot/vmlinuz",
        Access.PUBLIC,
        kernel,
        "The agent's kernel",
        media_type=BINARY,
        errors=(404,),
    ),
    Route(
        "GET",
        "/boot/initrd.img",
        Access.PUBLIC,
        initrd,
        "The agent's image",
        media_type=BINARY,
        errors=(404,),
    ),
    Route(
        "GET",
        f"/boot/{UEFI_IPXE}",
        Access.PUBLIC,
        uefi_ipxe,
        "iPXE for firmware that boots over HTTP",
        media_type=EFI,
        errors=(404,),
    ),
)
