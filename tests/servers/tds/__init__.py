"""A server that speaks TDS 7.4 as SQL Server does, for the real client libraries."""

from .server import TdsServer
from .storage import lone_surrogate

__all__ = ["TdsServer", "lone_surrogate"]
