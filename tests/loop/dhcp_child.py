"""Our side of the DHCP lab: `python -m … MODE INTERFACE DIR`; prints READY and what is fetched."""

import asyncio
import logging
import signal
import sys
from pathlib import Path

from aiohttp import web

from netboot.dnsmasq import UEFI_IPXE, Dnsmasq, plan_dhcp, running_dnsmasq

PORT = 8470
SCRIPT = """#!ipxe
echo the first script has come
imgfetch /boot/second?mac=${net0/mac:hexhyp}&platform=${platform} ||
poweroff
"""


async def serve(mode: str, interface: str, folder: Path) -> None:
    range_text = "10.77.0.200,10.77.0.220" if mode == "full" else None
    dnsmasq = Dnsmasq(plan_dhcp(mode, interface, PORT, range_text=range_text), folder)

    async def answer(request: web.Request) -> web.StreamResponse:
        sys.stdout.write(f"FETCHED {request.path_qs}\n")
        sys.stdout.flush()
        if request.path == "/boot/boot.ipxe":
            return web.Response(text=SCRIPT)
        if request.path == f"/boot/{UEFI_IPXE}":
            return web.FileResponse(dnsmasq.tftp / UEFI_IPXE)
        return web.Response(text="x")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=PORT).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with running_dnsmasq(dnsmasq) as watching:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            await watching
    await runner.cleanup()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
