"""Text data sets of the Hugging Face Hub, and how its absence is noticed in seconds."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scpl_ray.config.schema import DataConfig
from scpl_ray.data import reach
from scpl_ray.data.columns import read_columns
from scpl_ray.data.raw import RawData
from scpl_ray.errors import DataError


@dataclass(frozen=True)
class HubSet:
    """Where a data set lies on the Hub.

    Attributes:
        repo: its id.
        text: the column of texts.
        label: the column of labels.
        subset: its configuration, if it has several.
        splits: our split -> the Hub's.
    """

    repo: str
    text: str = "text"
    label: str = "label"
    subset: str | None = None
    splits: tuple[tuple[str, str], ...] = (("train", "train"), ("test", "test"))


_WITH_VALIDATION = (("train", "train"), ("validation", "validation"), ("test", "test"))
HUB_SETS = {
    "imdb": HubSet("stanfordnlp/imdb"),
    "ag_news": HubSet("fancyzhx/ag_news"),
    "dbpedia_14": HubSet("fancyzhx/dbpedia_14", text="content"),
    # The labels of its test split are hidden: its validation split is the test, as in the papers.
    "sst2": HubSet(
        "stanfordnlp/sst2",
        text="sentence",
        splits=(("train", "train"), ("test", "validation")),
    ),
    "rotten_tomatoes": HubSet("cornell-movie-review-data/rotten_tomatoes", splits=_WITH_VALIDATION),
    "banking77": HubSet("legacy-datasets/banking77"),
    "emotion": HubSet("dair-ai/emotion", subset="split", splits=_WITH_VALIDATION),
    "yelp_review_full": HubSet("Yelp/yelp_review_full"),
}


class HubUnreachableError(reach.UnreachableError):
    """The Hub does not answer and the data set is not in the local cache."""

    place = "the Hugging Face Hub"


def load_from_hub(name: str, config: DataConfig) -> RawData:
    """Loads one of `HUB_SETS`, from the Hub or from its local cache.

    Raises:
        HubUnreachableError: neither has it.
        DataError: the Hub answers, but the data set cannot be read.
    """
    known = HUB_SETS[name]
    problem = why_unreachable(config.offline_timeout_s)
    try:
        with _offline() if problem else contextlib.nullcontext():
            from datasets import disable_progress_bars, load_dataset

            disable_progress_bars()
            tables = {
                ours: load_dataset(known.repo, known.subset, split=theirs)
                for ours, theirs in known.splits
            }
    except Exception as error:
        cause = textwrap.shorten(str(error), 200, placeholder=" ...")
        if problem:
            raise HubUnreachableError(
                f"data.source: {name!r} comes from the Hugging Face Hub, which cannot be reached "
                f"({problem}), and it is not in the local cache. Set data.offline (e.g. "
                "movie_snippets), another data.source, or data.path"
            ) from error
        raise DataError(
            f"data.source: {name!r} ({known.repo}) could not be loaded from the Hugging Face Hub: "
            f"{type(error).__name__}: {cause}; try again, or use data.path"
        ) from error
    splits, names = read_columns(tables, known.text, known.label, known.repo)
    how = "from the local cache" if problem else "Hugging Face Hub"
    return RawData(name, "text", splits, names, f"{known.repo}, {how}")


def why_unreachable(timeout_s: float) -> str:
    """Asks the Hub once; returns why it cannot be reached, or "" if anything answers.

    The libraries of the Hub retry for minutes, hence this one short question before they start.
    """
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{name} is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return reach.why_unreachable(f"{endpoint}/api/datasets?limit=1", timeout_s)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Makes the libraries look into their cache only, for the time of a block."""
    import datasets.config
    import huggingface_hub.constants

    places: list[Any] = [datasets.config, huggingface_hub.constants]
    flags = [place.HF_HUB_OFFLINE for place in places]
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, flag in zip(places, flags, strict=True):
            place.HF_HUB_OFFLINE = flag
        os.environ.pop("HF_HUB_OFFLINE")
        if before is not None:
            os.environ["HF_HUB_OFFLINE"] = before
