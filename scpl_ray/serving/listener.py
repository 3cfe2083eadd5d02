"""The port, taken before anything else is started. Neither torch nor Ray."""

from __future__ import annotations

import socket

from scpl_ray.errors import ResourceError
from scpl_ray.serving.settings import Settings


def listening(settings: Settings) -> socket.socket:
    """Takes the port, before anything is started.

    Raises:
        ResourceError: naming the port.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        # A second server would otherwise be told only when it, too, starts to listen.
        listener.listen()
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"--port, --host: cannot listen on {settings.host} port {settings.port} "
            f"({error.strerror}); choose another (--port 0 takes any that is free)"
        ) from error
    return listener


def address(listener: socket.socket) -> str:
    """Where one finds it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
