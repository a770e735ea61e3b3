"""Names that TabbyAPI imports; see `exllamav3`."""

from exllamav3 import __getattr__  # noqa: F401
