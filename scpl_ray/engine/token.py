"""The token by which a Ray cluster knows its users. No Ray: it must be said before Ray is imported.

Ray sends the token only if RAY_AUTH_MODE says so when it is imported. A user who has one means to
send it; what was set by hand stays as it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def present_token() -> None:
    """Lets Ray send this user's token, if there is one.

    Too late once Ray is imported: it has read the variable then, but the processes that it starts
    would read it anew, and not agree.
    """
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ and _places():
        os.environ["RAY_AUTH_MODE"] = "token"


def token_place() -> str:
    """Where this user's token was found, in words."""
    places = _places()
    if places and os.environ.get("RAY_AUTH_MODE") != "token":
        return f"found in {places[0]}, but Ray was imported without RAY_AUTH_MODE=token"
    return f"found in {places[0]}" if places else "none was found"


def _places() -> list[str]:
    found = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)]
    default = Path.home() / ".ray" / "auth_token"
    if default.is_file():
        found.append(str(default))
    return found
