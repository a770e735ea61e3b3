"""The HTTP surface: OpenAI's API, health, metrics, administration."""

from llm_router.api.app import create_app

__all__ = ["create_app"]
