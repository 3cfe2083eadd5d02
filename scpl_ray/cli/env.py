"""`scpl-ray env`."""

from __future__ import annotations

import click


@click.command("env")
def command() -> None:
    """Print what a bug report needs: versions, machine, devices."""
    import torch

    from scpl_ray.data.packaged import cache_dir
    from scpl_ray.versions import machine, versions

    rows = versions() | machine()
    rows["torch threads"] = str(torch.get_num_threads())
    rows["cuda"] = str(torch.version.cuda) if torch.cuda.is_available() else "no GPU in use"
    for i in range(torch.cuda.device_count()):
        rows[f"gpu {i}"] = torch.cuda.get_device_name(i)
    rows["cache"] = str(cache_dir())
    for key, value in rows.items():
        click.echo(f"{key:14} {value}")
