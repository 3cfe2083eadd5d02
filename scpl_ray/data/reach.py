"""Whether a place of the network answers, found out in seconds."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request

from scpl_ray.errors import DataError


class UnreachableError(DataError):
    """Data that are not here, and whose place in the network does not answer.

    Attributes:
        place: what does not answer, for messages.
    """

    place = "the site of the data"


def why_unreachable(url: str, timeout_s: float) -> str:
    """Asks once; returns why nothing answers, or "" if anything does.

    Libraries that download retry or wait for minutes, hence one short question before they start.
    """
    answers: list[str] = []
    # A thread: the socket's timeout bounds neither the name's resolution nor several addresses.
    asking = threading.Thread(target=lambda: answers.append(_ask(url, timeout_s)), daemon=True)
    asking.start()
    asking.join(timeout_s + 0.5)
    return answers[0] if answers else f"no answer within {timeout_s:g} s"


def _ask(url: str, timeout_s: float) -> str:
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=timeout_s).close()
    except urllib.error.HTTPError as error:
        # A proxy's own refusal is not the place's answer.
        return (
            f"HTTP {error.code} {error.reason}" if error.code in (403, 407, 502, 503, 504) else ""
        )
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    return ""
