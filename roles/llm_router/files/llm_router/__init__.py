"""The Roundhouse router: one OpenAI-compatible endpoint for every model a host holds."""

__version__ = "0.1.0"
