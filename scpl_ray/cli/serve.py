"""`scpl-ray serve`."""

from __future__ import annotations

import click

from scpl_ray.cli.options import debug_option, measure_option, temperatures_option

EXAMPLES = """\b
Examples:
  SCPL_RAY_TOKEN=$(openssl rand -hex 16) scpl-ray serve RUN --host 0.0.0.0
  curl -H 'Content-Type: application/json' -d '{"inputs": ["a great film"]}' \\
    http://127.0.0.1:8000/predict
"""


@click.command("serve", epilog=EXAMPLES)
@click.argument("run")
@click.option(
    "--threshold",
    type=float,
    help="An exit answers when it is so sure.  [default: 0.9; entropy: 0.1]",
)
@measure_option
@temperatures_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Others need a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--token",
    envvar="SCPL_RAY_TOKEN",
    help="What clients must present as Authorization: Bearer TOKEN. Better in the environment, "
    "as SCPL_RAY_TOKEN: other users see command lines.",
)
@click.option(
    "--replicas", type=click.IntRange(1), default=1, show_default=True, help="Processes a stage."
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Samples that a stage computes at once.",
)
@click.option(
    "--batch-wait-ms",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    help="How long a stage waits for more of them.",
)
@click.option(
    "--max-body-kib", type=click.IntRange(1), default=4096, show_default=True, help="Longest body."
)
@click.option(
    "--max-inputs",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Texts or images of a request.",
)
@click.option(
    "--max-chars", type=click.IntRange(1), default=20_000, show_default=True, help="Longest text."
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=100.0,
    show_default=True,
    help="Requests a second of one client address; 0: no limit.",
)
@debug_option
def command(
    run: str,
    threshold: float | None,
    measure: str,
    wish: bool | None,
    host: str,
    port: int,
    token: str | None,
    replicas: int,
    max_batch: int,
    batch_wait_ms: float,
    max_body_kib: int,
    max_inputs: int,
    max_chars: int,
    rate: float,
    debug: bool,
) -> None:
    """Answer over HTTP with a finished run, on a page and as JSON.

    RUN is a run's folder, or its name under runs/. Each stage is a deployment of Ray Serve; a
    sample leaves at the first exit that is sure, and only the others travel on.
    """
    from scpl_ray.errors import ConfigError
    from scpl_ray.serving.settings import Limits, Settings

    if threshold is None:
        threshold = 0.9 if measure == "confidence" else 0.1
    limits = Limits(max_body_kib, max_inputs, max_chars, rate=rate, burst=max(1, int(2 * rate)))
    settings = Settings(
        threshold, measure, host, port, token or "", replicas, max_batch, batch_wait_ms, limits
    )
    from scpl_ray.run_folder import find_run

    folder = find_run(run)  # said before torch and Ray are imported
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"serve needs the package {error.name!r}: pip install 'scpl-ray[serve]'"
        ) from error
    from scpl_ray.exiting.temperatures import in_use
    from scpl_ray.serving.listener import listening

    calibration = in_use(folder, wish)
    if calibration.said:
        click.echo(calibration.said, err=True)
    with listening(settings) as listener:
        from scpl_ray.serving.server import serve_run

        serve_run(folder, settings, calibration.values, listener, click.echo, debug)
