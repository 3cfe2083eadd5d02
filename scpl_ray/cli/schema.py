"""`scpl-ray schema`."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the config, for editors."""
    from scpl_ray.config.schema import Config

    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "scpl-ray config"
    click.echo(json.dumps(schema, indent=2))
