"""The application: what path leads where, and one shape for every error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from llm_router import __version__
from llm_router.api import admin, cors, dashboard, health, models
from llm_router.api.auth import identify
from llm_router.api.board import Board
from llm_router.api.errors import ApiError, bad_request, internal_error, metrics_not_allowed
from llm_router.api.generation import Proxy
from llm_router.api.intake import understand, understand_upstream
from llm_router.api.openapi import described
from llm_router.api.paths import OPERATIONS, UPSTREAM
from llm_router.api.reload import Reloader
from llm_router.api.reply import ClientGone
from llm_router.api.request_guard import admit, for_fastapi, is_known, is_open, refuse
from llm_router.api.services import Services, running
from llm_router.api.turn_gate import TurnGate
from llm_router.api.wire import JsonResponse, to_json
from llm_router.config.load import Settings
from llm_router.http_protocol import LINE
from llm_router.units.base import Units

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def create_app(settings: Settings, units: Units | None = None) -> FastAPI:
    """The router as an ASGI app. ``units`` stands in for what config.yml asks for."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings, units) as services:
            app.state.services = services
            app.openapi()  # 40 ms, which no request may cost
            app.state.reloader = reloader = Reloader(services)
            app.state.board = board = Board(services)
            async with (
                reloader.watching(),
                services.gpus.watching(services.events),
                board.running(),
            ):
                yield
            services.afterwards.now()

    direct: dict[str, Proxy] = {}
    gate = TurnGate()

    class Described(FastAPI):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            """What is proxied goes by none of FastAPI's layers."""
            if scope["type"] != "http":
                await super().__call__(scope, receive, send)
                return
            try:
                origin = None
                origins = self.state.services.settings.config.listen.origins
                if origins:
                    origin = cors.origin_of(scope["headers"], origins)
                    scope[LINE].add(cors.allowed(origin))
                proxy = direct.get(scope["path"]) if scope["method"] == "POST" else None
                if proxy is not None:
                    scope["app"] = self
                    await proxy(scope, receive, send)
                else:
                    await self.serve(scope, receive, send, origin)
            finally:
                # it leads back to the scope: each connection would be garbage that only a search
                # through all objects finds
                scope.pop(LINE, None)

        async def serve(
            self, scope: Scope, receive: Receive, send: Send, origin: str | None
        ) -> None:
            """What is not proxied as it comes. ``origin``: the page that asks, if it may."""
            if scope["path"] != "/health":
                # who asks what has ended is told all of it; a health check asks no such thing, and
                # comes in the middle of a crowd that leaves
                self.state.services.afterwards.now()
            methods = _methods(self, scope) if scope["method"] == "OPTIONS" else []
            if origin is not None and methods:
                # a browser asks before it shows a key
                answer = cors.preflight(scope["headers"], methods)
                if answer is not None:
                    scope[LINE].start(204, answer, b"")
                    return
            if health.is_plain(scope):
                await health.answer_plainly(scope, self.state.services)
                return
            audit = self.state.services.audit

            ended = False

            async def noted(message: Message) -> None:
                nonlocal ended
                if ended:
                    return
                if message["type"] == "http.response.start":
                    audit.answered(scope, message["status"])
                    message = _without_host(message)
                await send(message)
                if message["type"] == "http.response.start" and scope["method"] == "HEAD":
                    # that is all of it, also where a stream without an end would follow
                    ended = True
                    await send({"type": "http.response.body"})

            if scope["path"].startswith(UPSTREAM.path + "/") and not methods:
                await gate.enter(known=is_known(scope, self.state.services))
                await super().__call__(scope, receive, noted)
                return
            try:
                receive = await admit(scope, receive, self.state.services)
            except ApiError as error:
                audit.answered(scope, error.status)
                refuse(scope[LINE], error, to_json(error.body))
                return
            except ClientGone:
                return
            if methods:
                scope[LINE].start(204, [(b"allow", ", ".join(methods).encode())], b"")
                return
            await gate.enter(known=not is_open(scope["path"]))
            await super().__call__(for_fastapi(scope), receive, noted)

        def openapi(self) -> dict[str, Any]:
            if self.openapi_schema is None:
                described(super().openapi())
            return super().openapi()

    # the interactive pages would have their scripts from another host
    app = Described(
        default_response_class=JsonResponse,
        title="Roundhouse",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    for operation in OPERATIONS:
        proxy = Proxy(operation, understand(operation))
        for path in operation.paths:
            direct[path] = proxy
            app.router.routes.append(Route(path, proxy, methods=["POST"]))
    upstream = Proxy(UPSTREAM, understand_upstream)
    app.router.routes.append(
        Route(UPSTREAM.path + "/{rest:path}", upstream, methods=list(_METHODS))
    )
    for part in (health.router, models.router, admin.router, dashboard.router, dashboard.pages):
        app.include_router(part)

    description = b""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        # it needs no key, and to write it each time would hold everybody up
        nonlocal description
        description = description or to_json(app.openapi())
        return Response(description, media_type="application/json")

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus' text format."""
        services: Services = request.app.state.services
        caller = identify(request.scope, request.headers, services.settings)
        if caller.models is not None and not caller.may("admin"):
            raise metrics_not_allowed(caller.name)
        return Response(await services.scrape(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JsonResponse:
        return JsonResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JsonResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or None
        wrong = bad_request(f"{where or 'The request'}: {first['msg']}.", where)
        return JsonResponse(wrong.body, 400)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JsonResponse:
        message = f"{request.method} {request.url.path}: {error.detail}."
        code = "method_not_allowed" if error.status_code == 405 else "not_found"
        wrong = ApiError(error.status_code, code, message)
        return JsonResponse(wrong.body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> JsonResponse:
        # Starlette logs it with its trace
        return JsonResponse(internal_error().body, 500)

    return app


def _methods(app: FastAPI, scope: Scope) -> list[str]:
    """What the path of a request takes; nothing for an unknown path."""
    found: set[str] = set()
    for method in _METHODS:
        asked = {**scope, "method": method}
        if any(route.matches(asked)[0] is Match.FULL for route in app.router.routes):
            found.add(method)
    if "GET" in found:
        found.add("HEAD")
    return sorted(found | {"OPTIONS"}) if found else []


def _without_host(message: Message) -> Message:
    """A redirect to a path, not to a URL: behind a proxy that ends TLS its scheme would be wrong,
    and its host is what the client chose to call this router."""
    fields = message["headers"]
    if not any(name == b"location" and value.startswith(b"http") for name, value in fields):
        return message
    kept = []
    for name, value in fields:
        if name == b"location":
            url = urlsplit(value.decode("latin-1"))
            path = f"{url.path}?{url.query}" if url.query else url.path
            kept.append((name, f"/{path.lstrip('/')}".encode("latin-1")))
        else:
            kept.append((name, value))
    return {**message, "headers": kept}
