"""Who may do what: API keys by their hash, and the admin socket."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_router.api.browsers import refuse_foreign_pages
from llm_router.api.errors import ApiError
from llm_router.config.load import Settings
from llm_router.config.names import Name
from llm_router.config.schema import ApiKey, Model, Scope, StatusStyle

ALL_SCOPES: frozenset[Scope] = frozenset(("use", "switch", "admin"))


@dataclass(frozen=True)
class Caller:
    """Who asks: a key's name, ``anyone`` where no key is configured, ``local`` (admin socket)."""

    name: str
    scopes: frozenset[Scope]
    status: StatusStyle | None = None
    priority: int = 0
    models: frozenset[str] | None = None
    max_requests: int | None = None

    def may_use(self, model: str) -> bool:
        """Whether this model is one of the caller's."""
        return self.models is None or model in self.models

    def may(self, scope: Scope) -> bool:
        """Whether the caller has ``scope``."""
        return scope in self.scopes

    def must(self, scope: Scope) -> None:
        """Raises `ApiError` 403 unless the caller has ``scope``."""
        if not self.may(scope):
            raise ApiError(
                403,
                "insufficient_scope",
                f"The key '{self.name}' may not do this: it lacks the scope '{scope}'.",
                kind="permission_error",
            )


def may_use(caller: Caller, known: Name[Model]) -> bool:
    """Whether a name, or the model that it stands for, is one of the caller's."""
    return caller.may_use(known.name) or caller.may_use(known.model)


def identify(scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> Caller:
    """The caller of a request. Raises `ApiError` 401, and 403 for other people's web pages.

    ``scope`` is ASGI's: the server address of a request that came over a Unix socket is its path
    and no port, and who could open the admin socket is admin.
    """
    keys = settings.keys
    if tuple(scope.get("server") or ()) == (settings.config.admin_socket, None):
        return Caller("local", ALL_SCOPES)
    if not keys:
        listen = settings.config.listen
        refuse_foreign_pages(scope, headers, listen.names, listen.origins)
        return Caller("anyone", ALL_SCOPES)
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not given:
        given = headers.get("x-api-key", "")
    given = given.strip()
    digest = hashlib.sha256(given.encode()).hexdigest() if given else ""
    found: ApiKey | None = None
    for key in keys:
        # every key is compared, so that the time says nothing about which one matched
        if hmac.compare_digest(digest, key.sha256):
            found = key
    if found is None:
        what = "Incorrect API key provided." if given else "No API key provided."
        raise ApiError(
            401,
            "invalid_api_key",
            f"{what} Send one as 'Authorization: Bearer KEY'.",
            kind="authentication_error",
        )
    return Caller(
        found.name,
        frozenset(found.scopes),
        found.status,
        found.priority,
        None if found.models is None else frozenset(found.models),
        found.max_requests,
    )
