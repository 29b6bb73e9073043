"""The server with Vertica's protocol."""

from tests.servers.vertica.problems import VerticaError
from tests.servers.vertica.server import VerticaServer

__all__ = ["VerticaError", "VerticaServer"]
