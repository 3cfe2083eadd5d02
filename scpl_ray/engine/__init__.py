"""How work gets done: in this process, or streamed through Ray actors."""

import os
import time

from scpl_ray.engine.token import present_token

LOADED_AT = time.time()
"""When this process began to import what a stage needs, in seconds since 1970."""

present_token()

# Answers that nobody waits for any more, after a fault, would be printed with their tracebacks.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
