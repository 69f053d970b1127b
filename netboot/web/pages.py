"""The pages of the dashboard, and the session that an operator token opens."""

from pathlib import Path
from typing import Final

from aiohttp import web

from netboot.auth import COOKIE, SESSION_S, Access
from netboot.context import context_of
from netboot.problems import ProblemError, not_found, try_later
from netboot.routes import Route

STATIC: Final = Path(__file__).resolve().parent / "static"
FILES: Final = {
    "style.css": "text/css",
    "app.js": "text/javascript",
    "parts.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
HTML: Final = "text/html"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
LOGIN_MAX: Final = 4096


async def home(request: web.Request) -> web.Response:
    """Give the one page; its script shows machines, jobs or templates."""
    del request
    return _page("app.html")


async def login_form(request: web.Request) -> web.Response:
    del request
    return _page("login.html")


async def log_in(request: web.Request) -> web.Response:
    """Open a session for whoever has the operator token."""
    context = context_of(request)
    if wait_s := context.login_limit.take(request.remote or ""):
        raise try_later("too many attempts", wait_s)
    if (request.content_length or 0) > LOGIN_MAX:
        raise ProblemError(413, "too-large", "that is no token")
    token = (await request.post()).get("token", "")
    if not isinstance(token, str) or not context.guard.is_operator(token.strip()):
        return _page("login.html", 401, "That is not the operator token.")
    response = web.Response(status=303, headers={"Location": "/"})
    response.set_cookie(
        COOKIE,
        context.guard.open_session(),
        max_age=SESSION_S,
        httponly=True,
        samesite="Strict",
        secure=request.secure,
        path="/",
    )
    return response


async def log_out(request: web.Request) -> web.Response:
    del request
    response = web.Response(status=303, headers={"Location": "/login"})
    response.del_cookie(COOKIE, path="/")
    return response


async def static(request: web.Request) -> web.StreamResponse:
    """Give a file of the dashboard: one of a few, by name, never by path."""
    name = request.match_info["file"]
    if name not in FILES:
        raise not_found("no such file")
    headers = {"Cache-Control": "no-cache", "Content-Type": FILES[name]}
    return web.FileResponse(STATIC / name, headers=headers)


def refusal(request: web.Request, error: ProblemError) -> web.StreamResponse:
    """Return the answer for `error`: a browser without a session gets the login form."""
    is_page = not request.path.startswith(("/api/", "/v2/", "/boot/", "/static/"))
    if error.status == 401 and is_page and HTML in request.headers.get("Accept", ""):
        return _page("login.html", 401)
    return error.response()


def _page(name: str, status: int = 200, notice: str = "") -> web.Response:
    """Return a page of ours. `notice` is text of ours too, never of a stranger."""
    text = (STATIC / name).read_text(encoding="utf-8").replace("<!-- notice -->", notice)
    return web.Response(
        text=text,
        status=status,
        content_type=HTML,
        headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"},
    )


ROUTES: Final = (
    Route("GET", "/", Access.OPERATOR, home, "The dashboard", media_type=HTML),
    Route("GET", "/login", Access.PUBLIC, login_form, "The login form", media_type=HTML),
    Route("POST", "/login", Access.PUBLIC, log_in, "Open a session", media_type=HTML),
    Route("POST", "/logout", Access.OPERATOR, log_out, "End the session", media_type=HTML),
    Route("GET", "/static/{file}", Access.PUBLIC, static, "Files of the dashboard"),
)
