"""`scpl-ray predict`."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scpl_ray.cli.options import debug_option, measure_option, temperatures_option

if TYPE_CHECKING:
    from scpl_ray.predicting.answers import Answer


@click.command("predict")
@click.argument("run")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--threshold", type=float, help="Leave at the first exit that is so sure.")
@measure_option
@click.option("--exit", "exit_", type=int, metavar="K", help="The exit of stage K answers.")
@click.option("--text-column", help="Column of the texts in files; default: that of training.")
@click.option("--as-text", is_flag=True, help="Every INPUT is a text, even the name of a file.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a table: .csv, .jsonl or .parquet. An existing file is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Default: that of evaluation in training."
)
@temperatures_option
@debug_option
def command(
    run: str,
    inputs: tuple[str, ...],
    threshold: float | None,
    measure: Any,
    exit_: int | None,
    text_column: str | None,
    as_text: bool,
    output: Path | None,
    as_json: bool,
    batch_size: int | None,
    wish: bool | None,
    debug: bool,
) -> None:
    """Answer texts and images with a finished run: label, probability, and the exit taken.

    RUN is a run's folder, its name under runs/, or a folder of `scpl-ray export --to huggingface`.
    INPUT is a text, or a file of texts (.csv, .tsv, .jsonl, .json, .parquet; .txt: one a line); for
    a run on images: image files, and folders of them. Without --threshold or --exit the last exit
    answers. Files are read in a stream: they may be larger than memory.

        scpl-ray predict reviews "A fine film." more.csv --threshold 0.9 --output answers.csv

    Exit code: 1 if there was an input that could not be read; the others are answered, and its row
    says why.
    """
    from scpl_ray.exiting.temperatures import of_run
    from scpl_ray.predicting.answers import answers, rule_of
    from scpl_ray.predicting.output import check_output, json_line, writer
    from scpl_ray.predictor import Predictor

    if output is not None:
        check_output(output, inputs)
    predictor = Predictor(run)
    calibration = of_run(run, wish)
    if calibration.said:
        click.echo(calibration.said, err=True)
    scale = calibration.values
    predictor.rule = rule_of(predictor.network, threshold, measure, exit_, scale)
    labels = predictor.labels
    stream = answers(predictor, inputs, text_column, batch_size, as_text)
    counts: Counter[int] = Counter()
    if output is not None:
        with writer(output, labels) as write:
            for answer in stream:
                write(answer)
                counts[_exit_of(answer)] += 1
    else:
        width = max(len(name) for name in (*labels, "error"))
        for answer in stream:
            click.echo(json_line(answer, labels) if as_json else _line(answer, width))
            counts[_exit_of(answer)] += 1
    click.echo(_summary(counts, output), err=True)
    if counts[0]:
        raise click.exceptions.Exit(1)


def _exit_of(answer: Answer) -> int:
    """The stage that answered; 0: none."""
    return answer.row()["exit"] or 0


def _line(answer: Answer, width: int) -> str:
    row = answer.row()
    where = f"{row['file']}:{row['row']}  " if row["file"] else ""
    if row["error"]:
        start = f"{'error':<{width}}  {row['error']}  {where}"
    else:
        start = f"{row['label']:<{width}}  {row['probability']:.3f}  exit {row['exit']}  {where}"
    # A text may hold what moves the cursor.
    shown = "".join(c if c.isprintable() else " " for c in row["input"])
    room = max(20, shutil.get_terminal_size().columns - len(start))
    return (start + textwrap.shorten(shown, room, placeholder=" ...")).rstrip()


def _summary(counts: Counter[int], output: Path | None) -> str:
    exits = ", ".join(f"exit {k}: {n}" for k, n in sorted(counts.items()) if k)
    said = f"{sum(counts.values()) - counts[0]} answered" + (f" ({exits})" if exits else "")
    if counts[0]:
        said += f"; {counts[0]} could not be read"
    return said + (f"; written to {output}" if output is not None else "")
