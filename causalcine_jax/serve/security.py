"""Access control: a token, allowed host names, and security headers on every response.

    GET /?token=...         -> cookie (HttpOnly, SameSite=Strict), and the address without the token
    Authorization: Bearer   -> programs

Wraps the whole app, sockets included. Host names are allow-listed against DNS rebinding. Numeric
addresses are always accepted, because rebinding needs a name.
"""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = (
    "causalcine_desk_"  # and the beginning of the token's hash: hosts share cookies of all ports
)
OPEN = ("/healthz", "/readyz")  # without a token: probes have none, and learn nothing else
LOCAL = ("localhost",)
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; font-src 'self'; manifest-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass
class Guard:
    """ASGI middleware.

    token       that clients must show
    hosts       names that the server answers to, beside localhost and addresses in digits
    body_bytes  at most, of a request
    """

    app: ASGIApp
    token: str
    hosts: tuple[str, ...]
    body_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        answer = self.refusal(scope)
        if scope["type"] == "websocket":
            if answer is not None:
                await receive()  # websocket.connect
                return await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
            return await self.app(scope, receive, send)
        if answer is not None:
            return await answer(scope, receive, _with_headers(send))
        await self.app(scope, self._limited(receive), _with_headers(send))

    def refusal(self, scope: Scope) -> Response | None:
        """The error response to a request that is not allowed; None if it is allowed."""
        headers = Headers(scope=scope)
        if not self._known_host(headers.get("host", "")):
            return _refused(421, "this server does not answer to that host name: start it with "
                            "--allow-host NAME")  # fmt: skip
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and not _same_origin(headers):
            return _refused(403, "the Origin is not this server")
        if _length(headers) > self.body_bytes:
            return _refused(413, f"a body has at most {self.body_bytes} bytes")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN:
            return None
        if scope["type"] == "http" and path == "/":
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if asked and self._is_token(asked):
                return self._with_cookie(scope)
        if self._is_token(_shown(headers, cookie_name(self.token))):
            return None
        return _refused(401, "open the address that the server printed, with its token")

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self.token.encode())

    def _known_host(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # such as "[::1"
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in {known.lower() for known in (*LOCAL, *self.hosts)}
        return True

    def _with_cookie(self, scope: Scope) -> Response:
        answer = RedirectResponse(f"{scope.get('root_path', '')}/", 303)
        secure = scope["scheme"] == "https"
        answer.set_cookie(
            cookie_name(self.token), self.token, httponly=True, samesite="strict", secure=secure
        )
        return answer

    def _limited(self, receive: Receive) -> Receive:
        """A body without a length is cut off where it is too long."""
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return message if seen <= self.body_bytes else {"type": "http.disconnect"}

        return limited


def cookie_name(token: str) -> str:
    return COOKIE + hashlib.sha256(token.encode()).hexdigest()[:8]


def _shown(headers: Headers, name: str) -> str:
    """The token that a request shows."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token
    # As browsers write them: other apps on this host may have cookies that http.cookies refuses.
    return cookie_parser(headers.get("cookie", "")).get(name, "")


def _same_origin(headers: Headers) -> bool:
    """No browser, or a page of this server."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    try:
        return urlsplit(origin).netloc == headers.get("host")
    except ValueError:
        return False


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 2**63


def _refused(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
