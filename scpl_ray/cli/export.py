"""`scpl-ray export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scpl_ray.cli.options import debug_option, temperatures_option


@click.command("export")
@click.argument("run")
@click.option(
    "--to", type=click.Choice(["torch", "onnx", "huggingface"]), required=True, help="See below."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="A .pt2 or .onnx file; for huggingface a folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace what an export wrote there before.")
@click.option(
    "--license",
    "license_",
    default="unknown",
    show_default=True,
    metavar="ID",
    help="Of the weights, for the model card: apache-2.0, cc-by-4.0 and so on.",
)
@temperatures_option
@debug_option
def command(
    run: str,
    to: Any,
    output: Path,
    overwrite: bool,
    license_: str,
    wish: bool | None,
    debug: bool,
) -> None:
    """Write a finished run for other programs, and compare it with the network.

    RUN is a run's folder, or its name under runs/.

    torch: one .pt2 file of torch.export, for any batch size and length of texts; whoever loads it
    needs torch alone. Labels and preprocessing lie in it, as scpl_ray.json and tokenizer.json.

    onnx: one .onnx file with the outputs exit_1, exit_2 and so on; the same lies in its metadata.
    Writing it needs pip install 'scpl-ray[export]'.

    huggingface: a folder with config.json, model.safetensors, tokenizer.json or
    preprocessor_config.json, and a model card; scpl_ray.load and scpl-ray predict read it.

    Layers of your own go into torch and onnx where torch.export can follow them: where they do not
    decide by values of tensors.

        scpl-ray export reviews --to onnx --output reviews.onnx
    """
    from scpl_ray.exiting.temperatures import in_use
    from scpl_ray.exporting.export import export
    from scpl_ray.run_folder import find_run

    calibration = in_use(find_run(run), wish)
    if calibration.said:
        click.echo(calibration.said, err=True)
    scale = calibration.values
    made = export(run, to, output, overwrite=overwrite, license=license_, temperatures=scale)
    for line in made.said:
        click.echo(f"note: {line}", err=True)
    click.echo(
        f"{made.path}: read back and compared on {made.inputs} made-up inputs; the logits differ "
        f"by {made.difference:.1e} at most"
    )
