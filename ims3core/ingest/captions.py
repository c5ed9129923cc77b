"""Captions of the training images, made by a pipeline of transformers for the source ``text_to_image``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ims3core.base.library_errors import translate_errors
from ims3core.data import read_split
from ims3core.errors import ArtifactError, ParameterError

QUESTION = "Describe the physical appearance of the main subject in one sentence."


def write(
    root: Path, model: str, target: Path, *, question: str = QUESTION,
    progress: Callable[[Iterable], Iterator] = iter,
) -> int:  # fmt: skip
    """Appends the captions of the images that ``target`` (``file,caption``) lacks; returns how many are new.

    Args:
        model: of the task image-text-to-text, for example ``llava-hf/llava-1.5-7b-hf``; a folder or a hub id.

    Raises:
        ParameterError: where images are no files, or the package transformers is missing.
        ArtifactError: if the model cannot be loaded.
    """
    train = read_split(root / "data/real/train")
    if train.names is None:
        raise ParameterError("captions are by file, wanted data.source: imagefolder")
    captioned = _captioned(target)
    missing = [row for row, name in enumerate(train.names) if name not in captioned]
    if not missing:
        return 0
    describe = _captioner(model, question)
    is_new = not target.exists()
    with target.open("a", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        if is_new:
            rows.writerow(("file", "caption"))
        for row in progress(missing):
            rows.writerow((train.names[row], " ".join(describe(train.images[row]).split())))
            stream.flush()  # so that a run that is killed loses no caption
    return len(missing)


def _captioned(target: Path) -> set[str]:
    """The files that have a caption."""
    from ims3core.data.spreadsheet import read_table

    if not target.is_file():
        return set()
    return {row["file"] for row in read_table(target, ("file", "caption"), needed="file")}


def _captioner(model: str, question: str) -> Callable[[Any], str]:
    """A function from a uint8 image (C, S, S) to the model's answer."""
    try:
        from transformers import pipelines
    except ImportError as error:
        raise ParameterError("captions want the package transformers: pip install 'ims3[text]'") from error
    from torchvision.transforms.v2.functional import to_pil_image

    with translate_errors(f"captions: {model}", ArtifactError):
        pipeline = pipelines.pipeline("image-text-to-text", model=model)

    def describe(image: Any) -> str:
        content = [{"type": "image", "image": to_pil_image(image).convert("RGB")}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": content}]
        return pipeline(text=chat, max_new_tokens=77, do_sample=False, return_full_text=False)[0]["generated_text"]

    return describe
