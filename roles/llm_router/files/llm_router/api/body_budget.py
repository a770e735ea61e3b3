"""The bytes of all request bodies that are held at the same time, bounded."""

from __future__ import annotations

from collections import Counter

from llm_router.api.errors import ApiError


class BodyBudget:
    """How many bytes the bodies of requests under way have, by caller. Only callers that are
    known take part: whoever has no key cannot use it up."""

    def __init__(self) -> None:
        self.held = 0
        self._by_caller: Counter[str] = Counter()

    def hold(self, caller: str, limit: int, share: int) -> HeldBody:
        """The account of one request; `HeldBody.release` it when the request is over.

        ``limit`` and ``share`` are bytes: of all callers, and of this one.
        """
        return HeldBody(self, caller, limit, share)

    def take(self, caller: str, size: int, limit: int, share: int) -> None:
        """Count ``size`` more bytes. Raises `ApiError` 503."""
        if self.held + size > limit:
            raise _full("all requests", limit)
        if self._by_caller[caller] + size > share:
            raise _full(f"the requests of '{caller}'", share)
        self.held += size
        self._by_caller[caller] += size

    def give(self, caller: str, size: int) -> None:
        """Count them no more."""
        self.held -= size
        self._by_caller[caller] -= size
        if not self._by_caller[caller]:
            del self._by_caller[caller]


class HeldBody:
    """What one request holds."""

    def __init__(self, budget: BodyBudget, caller: str, limit: int, share: int) -> None:
        self._budget = budget
        self._caller = caller
        self._limit = limit
        self._share = share
        self._size = 0

    def add(self, size: int) -> None:
        """More of the body has come. Raises `ApiError` 503."""
        self._budget.take(self._caller, size, self._limit, self._share)
        self._size += size

    def release(self) -> None:
        """The body is not held any more. Safe to repeat."""
        if self._size:
            self._budget.give(self._caller, self._size)
            self._size = 0


def _full(whose: str, limit: int) -> ApiError:
    return ApiError(
        503,
        "bodies_full",
        f"The bodies of {whose} under way may have {limit} bytes together "
        "(requests.max_bodies); try again in a moment.",
        kind="server_error",
        retry_after=5,
    )
