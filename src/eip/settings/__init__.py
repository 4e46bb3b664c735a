"""Settings said once: `Settings`, the base of every class of them; kinds of values; errors."""

from eip.settings.base import Settings

__all__ = ["Settings"]
