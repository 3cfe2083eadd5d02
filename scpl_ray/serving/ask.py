"""Asking a stage: a replica that dies is asked for again, elsewhere, until there is no time left.

A stage's answer depends on nothing but its input, so asking twice does no harm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from scpl_ray.serving.trail import Group, Trail, Unavailable

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_AGAIN_S = 0.1


async def ask(handle: DeploymentHandle, group: Group) -> list[Trail]:
    """Asks a stage and those behind it: a trail for each sample.

    Raises:
        Unavailable: there was no answer in time.
    """
    while (left := group.until - time.time()) > 0:
        response = handle.remote(group)
        try:
            return await asyncio.wait_for(_result(response), left)
        except asyncio.TimeoutError:
            response.cancel()
        except Unavailable as error:
            raise Unavailable(str(error)) from None
        except RayTaskError:
            raise
        except (RayError, RayServeException):
            await asyncio.sleep(min(_AGAIN_S, left))
    raise Unavailable(f"{handle.deployment_name} did not answer in time")


async def _result(response: Awaitable[list[Trail]]) -> list[Trail]:
    return await response
