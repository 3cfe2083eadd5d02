"""The page on which one tries the network: one HTML file, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING

from scpl_ray.serving.settings import Settings, most_of

if TYPE_CHECKING:
    from scpl_ray.serving.app import Served

_SETTINGS = "{}<!-- settings -->"


def page(served: Served, settings: Settings) -> str:
    """The page of a run."""
    facts = {
        "run": served.run,
        "kind": served.info.kind,
        "data": served.info.name,
        "labels": list(served.info.label_names)[:20],
        "classes": served.info.num_classes,
        "stages": served.stages,
        "exits": served.exits,
        "measure": settings.measure,
        "threshold": settings.threshold,
        "most": most_of(settings.measure, served.info.num_classes),
        "token": bool(settings.token),
        "max_chars": settings.limits.text_chars,
        "max_body": settings.limits.body_kib * 1024,
    }
    html = files("scpl_ray.serving").joinpath("page.html").read_text(encoding="utf-8")
    # Inside a script element only "<" could end it.
    return html.replace(_SETTINGS, json.dumps(facts).replace("<", "\\u003c"))


def page_headers(html: str) -> dict[str, str]:
    """Headers by which the browser runs this page's script and style, and loads nothing else."""
    script, style = (_digest(html, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def _digest(html: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert found is not None, f"the page has a {tag}"
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
