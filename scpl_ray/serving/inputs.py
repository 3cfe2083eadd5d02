"""The body of a request -> what the first stage takes. Whatever is wrong with it is a refusal."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from scpl_ray.data.batch import DataInfo
from scpl_ray.models.activation import Activation
from scpl_ray.preprocess import Preprocessor
from scpl_ray.serving.refusal import Refused
from scpl_ray.serving.schema import Options, options_model, request_model
from scpl_ray.serving.settings import Settings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_FILES = "files"
_FORM_FIELD_BYTES = 1024


class Invalid(Exception):
    """Fields that do not validate.

    Args:
        errors: (field, message) of each.
        status: HTTP status.
    """

    def __init__(self, errors: list[tuple[str, str]], status: int = 422) -> None:
        super().__init__(errors, status)
        self.errors, self.status = errors, status


class Reader:
    """Reads requests for one run.

    Args:
        info: what the network was trained on.
        settings: the limits.
    """

    def __init__(self, info: DataInfo, settings: Settings) -> None:
        self.kind, self.settings = info.kind, settings
        self.preprocessor = Preprocessor(info)
        self.json_model = request_model(settings, info.kind, info.num_classes)
        self.form_model = options_model(settings, info.num_classes)

    async def read(self, request: Request) -> tuple[Options, list[str | bytes]]:
        """Reads and validates a body: (options, texts, base64 or bytes of images).

        Raises:
            Refused: a body or content type that cannot be read.
            Invalid: fields that do not validate.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return self._json(await request.body())
        if kind == "multipart/form-data" and self.kind == "image":
            return await self._form(request)
        form = " or multipart/form-data" if self.kind == "image" else ""
        raise Refused(415, "header Content-Type", f"{kind[:100]!r}; send application/json{form}")

    def _json(self, body: bytes) -> tuple[Options, list[str | bytes]]:
        asked = _validated(lambda: self.json_model.model_validate_json(body, strict=True))
        return asked, list(asked.inputs)

    async def _form(self, request: Request) -> tuple[Options, list[str | bytes]]:
        most = self.settings.limits.inputs
        try:
            form = await request.form(max_files=most, max_fields=8, max_part_size=_FORM_FIELD_BYTES)
        except HTTPException as error:
            raise Refused(400, "body", str(error.detail)) from None
        async with _Closing(form):
            options = {k: v for k, v in form.multi_items() if k != _FILES}
            asked = _validated(lambda: self.form_model.model_validate(options))
            files = form.getlist(_FILES)
            if not files:
                raise Refused(422, _FILES, "no file; send one or more under this name")
            for place, file in enumerate(files):
                if not isinstance(file, UploadFile):
                    raise Refused(422, f"{_FILES}[{place}]", "not a file but a text field")
            return asked, [await file.read() for file in files if isinstance(file, UploadFile)]

    def prepare(self, inputs: list[str | bytes]) -> Activation:
        """Tokens or pixels of all inputs; slow enough to be kept out of an event loop.

        Raises:
            Invalid: naming each input that cannot be used.
        """
        if self.kind == "image":
            return self._pixels(inputs)
        prepared = self.preprocessor.texts([str(text) for text in inputs])
        if prepared.refused:
            raise Invalid([(f"inputs[{i}]", why) for i, why in sorted(prepared.refused.items())])
        tensors = {name: torch.from_numpy(array) for name, array in prepared.inputs.items()}
        return Activation(tensors["tokens"], tensors["mask"])

    def _pixels(self, files: list[str | bytes]) -> Activation:
        """One file after another is decoded and made small: all at once could fill the memory."""
        left = self.settings.limits.image_pixels

        def pixels(content: str | bytes) -> np.ndarray:
            nonlocal left
            file = _from_base64(content) if isinstance(content, str) else content
            image = decoded(file, left)
            left -= image.width * image.height
            prepared = self.preprocessor.images([image])
            if prepared.refused:
                raise ValueError(prepared.refused[0])
            return prepared.inputs["images"]

        return Activation(torch.from_numpy(np.concatenate(_each(files, pixels))))


def decoded(content: bytes, most_pixels: int) -> Image.Image:
    """Decodes an image file of a client that nobody knows.

    Args:
        content: the file.
        most_pixels: width times height; looked at before anything is decoded.

    Raises:
        ValueError: why it cannot be used.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not an image; send {', '.join(FORMATS)}") from None
    except Exception as error:
        raise ValueError(f"not a readable image ({error})") from error
    width, height = image.size
    if width * height > most_pixels:
        raise ValueError(f"{width} x {height} pixels are too many; {most_pixels:,} are left")
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise whatever damaged files make them raise
        raise ValueError(f"a damaged {image.format} image ({error})") from error
    return image


def _from_base64(text: str) -> bytes:
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("a data: URL without ;base64, in it")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64 ({error})") from None


def _each(inputs: list[Any], read: Callable[[Any], Any]) -> list[Any]:
    """Reads every input; all that fail are named."""
    made, errors = [], []
    for place, one in enumerate(inputs):
        try:
            made.append(read(one))
        except ValueError as error:
            errors.append((f"inputs[{place}]", str(error)))
    if errors:
        raise Invalid(errors)
    return made


def _validated(validate: Callable[[], BaseModel]) -> Any:
    try:
        return validate()
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        raise Refused(400, "body", found[0]["msg"])
    raise Invalid([(_place(row["loc"]), row["msg"]) for row in found[:10]])


def _place(loc: tuple[int | str, ...]) -> str:
    """('inputs', 3) -> inputs[3]."""
    words = ""
    for part in loc:
        words += f"[{part}]" if isinstance(part, int) else f".{part[:100]}"
    return words.lstrip(".") or "body"


class _Closing:
    """Closes the temporary files of a form."""

    def __init__(self, form: FormData) -> None:
        self.form = form

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *reason: object) -> None:
        await self.form.close()
