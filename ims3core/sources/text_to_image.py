"""Image to image of a text-to-image model, from prototypes of latents and of captions (DDVLCP)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from ims3core.params import schema
from ims3core.shell.errors import ArtifactError, DataError, ParameterError

if TYPE_CHECKING:
    import torch

    from ims3core.base.compute import Machine
    from ims3core.data.inputs import Inputs
    from ims3core.data.pools import Made, Spot, Wanted

SAMPLED = False
PER_IPC = True  # as many clusters as images
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
CAPTIONS = ("file", "caption")


class Section(schema.Section):
    model: str
    revision: str | None
    captions: str
    side: Annotated[int, Field(ge=8, multiple_of=8)]
    neighbours: schema.Count
    contamination: Annotated[float, Field(gt=0, le=0.5)]
    restarts: schema.Count
    common: schema.Fraction
    words: schema.Count
    strength: schema.OpenFraction
    guidance: schema.Positive
    steps: schema.Count
    batch_size: schema.Count


class Prototype(NamedTuple):
    """Where one image starts: the centre of a cluster of latents, (channels, h, w), and the caption it follows."""

    latent: torch.Tensor
    prompt: str


def maker(
    inputs: Inputs, wanted: Wanted, machine: Machine, *, model: str, revision: str | None, captions: str, side: int,
    neighbours: int, contamination: float, restarts: int, common: float, words: int, strength: float, guidance: float,
    steps: int, batch_size: int,
) -> Callable[[list[Spot]], Made]:  # fmt: skip
    """As many clusters as images; each image starts at its centre, noised to ``strength``, under its caption.

    Args:
        model: a Stable Diffusion pipeline, as published or fine-tuned by diffusers' own script: a folder or a hub id.
        captions: a table ``file,caption`` of every training image.
        side: at which the model works, in pixels.
    """
    import torch

    from ims3core.data import resized
    from ims3core.data.pools import Made

    pipeline, texts = _pipeline(model, revision, machine), _captions(Path(captions).expanduser(), inputs)
    prototypes: dict[tuple[int, int, int], list[Prototype]] = {}

    def of_class(class_index: int) -> None:
        own = torch.nonzero(inputs.train.class_index == class_index).flatten()
        latents, said = _encoded(pipeline, inputs.train.images, own, side, batch_size), [texts[int(n)] for n in own]
        kept = inliers(latents, neighbours=neighbours, contamination=contamination)
        row = inputs.classes[class_index]
        for ipc in wanted.ipcs:
            for draw in range(wanted.draws):
                if len(kept) < wanted.count(ipc):
                    raise DataError(f"class {row.name}: {len(kept)} images without outliers, wanted at least IPC {ipc}")
                centres, cluster = _clusters(latents[kept], wanted, ipc, draw, class_index, restarts)
                groups = [[said[int(n)] for n in kept[cluster == k]] for k in range(len(centres))]
                lines = [caption(group, said, row.human_name, common=common, words=words) for group in groups]
                prototypes[ipc, draw, class_index] = list(map(Prototype, centres, lines))

    def make(spots: list[Spot]) -> Made:
        made = []
        for first in range(0, len(spots), batch_size):
            part = spots[first : first + batch_size]
            for spot in part:
                if (spot.ipc, spot.draw, spot.class_index) not in prototypes:
                    of_class(spot.class_index)
            own = [prototypes[spot.ipc, spot.draw, spot.class_index][spot.index] for spot in part]
            with torch.inference_mode():
                images = pipeline(
                    prompt=[prototype.prompt for prototype in own],
                    image=torch.stack([prototype.latent for prototype in own]).to(machine.device, machine.dtype),
                    strength=strength, guidance_scale=guidance, num_inference_steps=steps, output_type="pt",
                    generator=[torch.Generator().manual_seed(wanted.seed(spot)) for spot in part],
                ).images  # fmt: skip
            made.append(images.float().mul(255).round().clamp(0, 255).to(torch.uint8).cpu())
        channels, *size = inputs.train.images.shape[1:]
        images = resized(torch.cat(made), size[0])
        return Made(images if channels == 3 else images.float().mean(1, keepdim=True).round().to(torch.uint8))

    return make


def calls(wanted: Any, *, steps: int, strength: float, guidance: float, **others: Any) -> int:
    """The steps that are walked, twice with guidance."""
    return min(int(steps * strength), steps) * (2 if guidance > 1 else 1)


def inliers(latents: torch.Tensor, *, neighbours: int, contamination: float) -> torch.Tensor:
    """Rows of latents (N, ...) that are no outliers by their local density; all where there are three or less."""
    import torch
    from sklearn.neighbors import LocalOutlierFactor

    if len(latents) <= 3:
        return torch.arange(len(latents))
    finder = LocalOutlierFactor(n_neighbors=min(neighbours, len(latents) - 1), contamination=contamination)
    return torch.from_numpy(finder.fit_predict(latents.flatten(1).double().numpy()) == 1).nonzero().flatten()


def caption(cluster: list[str], whole: list[str], name: str, *, common: float, words: int) -> str:
    """The caption of a cluster that says most of what its captions say.

    Stop words, the words of the class name and those in a share of ``common`` or more of the class's captions say
    nothing; of the others the ``words`` most frequent in the cluster count, each with its frequency. The first of
    equals.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    everywhere = Counter(word for text in whole for word in set(split(text)))
    dull = {word for word, count in everywhere.items() if count >= common * len(whole)}
    dull |= ENGLISH_STOP_WORDS | set(split(name))
    counts = Counter(word for text in cluster for word in split(text) if word not in dull)
    weight = dict(counts.most_common(words))
    return max(cluster, key=lambda text: sum(weight.get(word, 0) for word in set(split(text))))


def split(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower())


def _clusters(
    latents: torch.Tensor, wanted: Wanted, ipc: int, draw: int, class_index: int, restarts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (K, ...) of scikit-learn's k-means, and the cluster of every latent, int64 (N,)."""
    import torch
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    from ims3core.base.seeds import derive_seed

    seed = derive_seed(wanted.root_seed, f"clusters-{wanted.purpose}", draw, class_index, ipc) % 2**31
    with threadpool_limits(limits=1):  # sums in another order would move the centres by their last bits
        found = KMeans(wanted.count(ipc), n_init=restarts, random_state=seed).fit(latents.flatten(1).double().numpy())
    centres = torch.from_numpy(found.cluster_centers_).float().view(-1, *latents.shape[1:])
    return centres, torch.from_numpy(found.labels_).long()


def _encoded(pipeline: Any, images: Any, rows: torch.Tensor, side: int, batch_size: int) -> torch.Tensor:
    """Scaled posterior means, float32 (N, channels, h, w), of some images at the model's side."""
    import torch

    from ims3core.data import resized, signed

    done = []
    with torch.inference_mode():
        for part in rows.split(batch_size):
            x = signed(resized(images[part], side)).expand(-1, 3, -1, -1)
            vae = pipeline.vae
            mean = vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mean
            done.append((mean * vae.config.scaling_factor).float().cpu())
    return torch.cat(done)


def _captions(path: Path, inputs: Inputs) -> list[str]:
    """The caption of every training image, in their order."""
    from ims3core.data import IndexedImages
    from ims3core.data.spreadsheet import read_table

    if not isinstance(inputs.train.images, IndexedImages):
        raise ParameterError("text_to_image.captions: captions are by file, wanted data.storage: index")
    table = {row["file"]: row["caption"] for row in read_table(path, CAPTIONS, needed="file")}
    missing = [name for name in inputs.train.images.names if not table.get(name)]
    if missing:
        raise DataError(
            f"text_to_image.captions: {path}: {len(missing)} of {len(inputs.train.images)} training images have no "
            f"caption, the first is {missing[0]}"
        )
    return [table[name] for name in inputs.train.images.names]


def _pipeline(model: str, revision: str | None, machine: Machine) -> Any:
    """The image-to-image pipeline of a Stable Diffusion model, without its safety checker."""
    from ims3core import weights
    from ims3core.shell.border import foreign

    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ParameterError(
            "source text_to_image: wants the package transformers: pip install 'ims3[text]'"
        ) from error
    from diffusers import StableDiffusionImg2ImgPipeline

    folder, where = Path(model).expanduser(), f"text_to_image.model: {model}"
    if (index := folder / "model_index.json").is_file():
        kind = weights.read_config(index, where="text_to_image.model").get("_class_name")
        if kind not in PIPELINES:
            raise ArtifactError(f"{where}: a {kind}, wanted a {PIPELINES[0]}")
    elif folder.exists() or model.count("/") != 1:
        what = "no model_index.json in it" if folder.is_dir() else "no such folder, and not a hub id"
        raise ArtifactError(f"{where}: {what}, wanted a {PIPELINES[0]}")
    advice = "" if folder.is_dir() else f"; where there is a network run `hf download {model}` and name its folder"
    with foreign(where, ArtifactError, advice=advice):
        pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
            model, revision=revision, torch_dtype=machine.dtype, safety_checker=None, requires_safety_checker=False,
            local_files_only=folder.is_dir(),
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(machine.device)
