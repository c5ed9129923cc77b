"""Products for others: the adapted generator as a plain ``DiTPipeline``, a distilled set as folders and parquet."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from ims3core.base import files
from ims3core.data import ClassRow, distilled, read_classes, read_split
from ims3core.errors import ArtifactError, ParameterError, visible

SOURCES = "sources.csv"
FOLDERS = {"test": "test", "validation": "val"}  # of splits, as readers of image folders look for them
GENERATOR_CARD = """---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [DiT, dataset-distillation]
---
# {source}, adapted by `{adaptation}`

A class-conditional DiT of {classes} classes; the DiffFit scales are folded into the linear layers, so that
`diffusers` needs no other code: `pipe = DiTPipeline.from_pretrained(folder)`. It knows the classes below by folder and
name: `pipe(pipe.get_label_ids(["{example}"]){scale})`.

What `DiTPipeline` itself fixes, and the distillation pipeline does not:

- its null class is 1000. {null_note}
- its time features: {time_note}
- it guides {guided}; here `guided_channels` of the sampler's section decides, as in `dpm_solver.guided_channels`.
- it drops the learned variance and samples with the scheduler in `scheduler/`.

| class_index | folder | name | generator_label |
|---|---|---|---|
{table}
"""

MOSAICS = """
Every {tiles} images are one in the set: its {factor} by {factor} tiles, enlarged. By pixels a {tiles}th of them count.
"""
SET_CARD = """---
configs:
- config_name: default
  data_files: [{{split: train, path: data/train-00000-of-00001.parquet}}]
task_categories: [image-classification]
size_categories: ["{size}"]
tags: [dataset-distillation]
# license: that of your pictures
---
# {method}, {ipc} images per class, draw {draw}

{images} images of {classes} classes, distilled by `{method}`: `train/<class>/*.png` for readers of image folders, and
the same as parquet for `datasets.load_dataset(folder)`.
{beside}
Columns of the parquet: `image`, `label`, `seed` (of the generated image; null for a real one), `group` (chosen
subgroup; null without groups), `sha256` (of the PNG).

| label | folder | name |
|---|---|---|
{table}
"""


def export_generator(root: Path, adaptation: str, target: Path, phase: int | None = None) -> None:
    """Writes ``data/generator`` with the delta ``data/adapted/<adaptation>`` as a ``DiTPipeline`` folder of its own.

    Args:
        phase: of a row that was fine-tuned in phases.

    Raises:
        ParameterError: if there is no such phase.
        ArtifactError: if ``target`` exists or an input is missing.
    """
    from ims3core.diffusion import autoencoder, difffit, generator

    _refuse_existing(target)
    facts = files.read_manifest(root / "data/generator", "generator", generator.GeneratorFacts)
    adapted = root / "data/adapted" / adaptation
    _check_phase(adapted, phase)
    network = generator.read_adapted(root / "data/generator", adapted, phase or 0)
    difffit.fold_scales(network)
    staged = _staged(target)
    generator.write_generator(staged, network, autoencoder.read_autoencoder(root / "data/generator/vae"))
    classes, channels = network.config.classes, network.config.channels
    rows = read_classes(root / "data/real/classes.json")
    index = files.read_json(staged / "model_index.json")
    files.write_json(staged / "model_index.json", index | {"id2label": _id2label(rows)})
    card = GENERATOR_CARD.format(
        example=visible(rows[0].name), scale="" if classes == 1000 else ", guidance_scale=1",
        source=facts.source, adaptation=adaptation, classes=classes,
        null_note="That is this model's, too." if classes == 1000 else (
            f"This model's is {classes}, so guidance does not work in it: "
            "call it with `guidance_scale=1`, or sample here."
        ),
        time_note="those of this model." if network.config.time_features == "diffusers" else (
            "diffusers computes others than these weights were trained with, so that outputs differ by some percent."
        ),
        guided=f"all {channels} latent channels",
        table=_table(rows, ("class_index", "name", "human_name", "generator_label")),
    )  # fmt: skip
    files.write_bytes(staged / "README.md", card.encode())
    files.replace_directory(staged, target)


def _id2label(rows: list[ClassRow]) -> dict[str, str]:
    """What ``DiTPipeline.get_label_ids`` knows: generator label -> folder, and words that no other class has."""
    words = {row.name: dict.fromkeys([row.name, *(word.strip() for word in row.human_name.split(","))]) for row in rows}
    owners = Counter(word for own in words.values() for word in own)
    return {
        str(row.generator_label): ", ".join(word for word in words[row.name] if word == row.name or owners[word] == 1)
        for row in rows
    }


def _check_phase(adapted: Path, phase: int | None) -> None:
    """Raises a ParameterError unless ``phase`` is one of the row's phases, or None where it has none."""
    from ims3core.diffusion.generator import AdaptedFacts

    size = files.read_manifest(adapted, "adapted", AdaptedFacts).phase
    count = len(list(adapted.glob("phase-*.safetensors")))
    if (size is None) != (phase is None) or (phase is not None and phase >= count):
        phases = f"one of {count} generators of {size} classes each: --phase 0 to {count - 1}" if size else "no --phase"
        raise ParameterError(f"{adapted}: wanted {phases}, found {'none' if phase is None else phase}")


def export_set(root: Path, method: str, ipc: int, draw: int, target: Path, *, held_out: str | None = None) -> None:
    """Writes one distilled set as image folders and as parquet in the Hugging Face layout, with a card.

    ``train/<class>/*.png`` is the set, ``test/<class>`` or ``val/<class>`` beside it the held-out images that students
    were scored on. ``sources.csv`` says which file an image is, or was before it was refined, where it is a real one.

    Args:
        held_out: ``test`` or ``validation``; None leaves them out.

    Raises:
        ArtifactError: if ``target`` exists, the set is missing, or an image has changed since.
    """
    _refuse_existing(target)
    folder = root / distilled.SetKey(method, ipc, draw).folder
    factor, stored = distilled.read_set_manifest(folder).factor, distilled.read_pngs(folder)
    images, pngs = [image for image, _ in stored], [png for _, png in stored]
    rows = read_classes(root / "data/real/classes.json")
    staged = _staged(target)
    for image, png in stored:
        files.write_bytes(staged / image.file, png)
    beside = MOSAICS.format(tiles=factor**2, factor=factor) if factor > 1 else ""
    if held_out is not None:
        place = FOLDERS[held_out]
        count = _write_split(root / "data/real" / held_out, staged / place, [row.name for row in rows])
        beside = f"\n`{place}/` holds the {count:,} held-out images that students were scored on, unchanged.\n"
    if factor == 1 and (sources := _sources(root, images)):
        files.write_csv(staged / SOURCES, ("file", "class", "source_file"), sources)
        beside += f"\n`{SOURCES}` names the picture that each image is, or was before it was refined.\n"
    _write_parquet(staged, images, pngs, [row.name for row in rows])
    count = len(images)
    size = "n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K"
    card = SET_CARD.format(
        method=method, ipc=ipc, draw=draw, images=count, classes=len(rows), size=size, beside=beside,
        table=_table(rows, ("class_index", "name", "human_name")),
    )  # fmt: skip
    files.write_bytes(staged / "README.md", card.encode())
    files.replace_directory(staged, target)


def _write_parquet(staged: Path, images: list[distilled.SetImage], pngs: list[bytes], names: list[str]) -> None:
    """The set as one file of parquet, in the order of its manifest."""
    import datasets

    columns: dict[str, list[Any]] = {
        "image": [{"bytes": png, "path": Path(image.file).name} for image, png in zip(images, pngs, strict=True)],
        "label": [image.class_index for image in images],
        **{name: [getattr(image, name) for image in images] for name in ("seed", "group", "sha256")},
    }
    features = datasets.Features({
        "image": datasets.Image(), "label": datasets.ClassLabel(names=names),
        "seed": datasets.Value("int64"), "group": datasets.Value("int64"), "sha256": datasets.Value("string"),
    })  # fmt: skip
    (staged / "data").mkdir(parents=True)
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(staged / "data/train-00000-of-00001.parquet"))


def _write_split(directory: Path, target: Path, names: list[str]) -> int:
    """Writes a split of the real images as ``<class>/<row>.png``; returns how many there are."""
    split = read_split(directory)
    for row, class_index in enumerate(split.class_index.tolist()):
        files.write_bytes(target / names[class_index] / f"{row:06d}.png", files.png_bytes(split.images[row]))
    return len(split.images)


def _sources(root: Path, images: list[distilled.SetImage]) -> list[tuple[str, str, str]]:
    """File, class and source file of every image of a set; none where it was drawn, or where sources are no files."""
    if any(image.seed is not None for image in images):
        return []
    train = read_split(root / "data/real/train")
    if train.names is None:
        return []
    rows = [
        (train.class_index == label).nonzero().flatten().tolist() for label in range(int(train.class_index.max()) + 1)
    ]
    return [(one.file, one.class_name, train.names[rows[one.class_index][one.index]]) for one in images]


def export_ddranking(root: Path, method: str, ipc: int, draw: int, target: Path) -> None:
    """Writes one distilled set as the package ``ddranking`` reads it: ``images/<class>/*.png`` and ``config.yaml``.

    Folders begin with the class index, so that an image folder numbers the classes as we do.

    Raises:
        ArtifactError: if ``target`` exists, the set is missing, or an image has changed since.
    """
    _refuse_existing(target)
    folder, staged = root / distilled.SetKey(method, ipc, draw).folder, _staged(target)
    stored = distilled.read_pngs(folder)
    for image, png in stored:
        name = f"images/{image.class_index:04d}-{image.class_name}/{Path(image.file).name}"
        files.write_bytes(staged / name, png)
    size, tiles = files.png_pixels(stored[0][1], folder).shape[-2:], distilled.read_set_manifest(folder).factor ** 2
    settings = {
        "dataset": "ImageFolder", "ipc": ipc * tiles, "im_size": list(size), "model_name": "ConvNet-3",
        "num_eval": 5, "num_epochs": 300, "optimizer": "sgd", "lr_scheduler": "cosine", "use_zca": False,
        "real_data_path": "./dataset", "random_data_format": "image", "random_data_path": "./random",
        "save_path": f"{method}-{ipc}.csv",
    }  # fmt: skip
    files.write_bytes(staged / "config.yaml", yaml.safe_dump(settings, sort_keys=False).encode())
    files.replace_directory(staged, target)


def _table(rows: list[Any], columns: tuple[str, ...]) -> str:
    return "\n".join("| " + " | ".join(cell(str(getattr(row, name))) for name in columns) + " |" for row in rows)


def cell(text: str) -> str:
    """Any text as it reads in a cell of a Markdown table."""
    return re.sub(r"([\\|`*_<>\[\]$~])", r"\\\1", visible(text))


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise ArtifactError(f"{target}: exists already; an export goes to a new folder")


def _staged(target: Path) -> Path:
    staged = target.with_name(f".{target.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    return staged
