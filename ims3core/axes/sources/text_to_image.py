"""Image to image of a text-to-image model, from prototypes of latents and of captions (DDVLCP)."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from ims3core.axes.sources import Source
from ims3core.base.schema import Count, Fraction, OpenFraction, Positive
from ims3core.errors import ArtifactError, DataError, ParameterError

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.axes.sources import ImageMaker, PoolSpec
    from ims3core.base.compute import Machine
    from ims3core.data import IndexedImages
    from ims3core.data.keys import CandidateKey
    from ims3core.data.pools import CandidateBatch
    from ims3core.diffusion.inputs import PoolInputs

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
CAPTIONS = ("file", "caption")


class ClusterPrototype(NamedTuple):
    """Where one image starts: the centre of a cluster of latents, (channels, h, w), and the caption it follows."""

    latent: Tensor
    prompt: str


class TextToImage(Source):
    """Stable Diffusion from the centres of clusters of a class's latents, under a caption of each cluster."""

    per_ipc = True  # as many clusters as images
    noise_stream = "ddvlcp"

    model: str = Field(description="Stable Diffusion, as published or fine-tuned by diffusers: hub id or folder")
    revision: str | None = Field(description="commit of a hub id")
    captions: str = Field(description="table file,caption of every training image; `ims3 caption` makes it")
    side: Annotated[int, Field(ge=8, multiple_of=8)] = Field(description="pixels at which the model works")
    neighbours: Count = Field(description="of the local outlier factor")
    contamination: Annotated[float, Field(gt=0, le=0.5)] = Field(description="share of the latents that is left out")
    restarts: Count = Field(description="of k-means")
    common: Fraction = Field(description="words in so many of a class's captions say nothing")
    words: Count = Field(description="most frequent ones of a cluster that count")
    strength: OpenFraction = Field(description="share of the trajectory that a centre is noised")
    guidance: Positive = Field(description="scale of classifier-free guidance; 1 is none")
    steps: Count = Field(description="timesteps, of which strength x steps are walked")
    batch_size: Count = Field(description="images per network call")

    def build(self, inputs: PoolInputs, spec: PoolSpec, machine: Machine) -> ImageMaker:
        """As many clusters as images; each image starts at its centre, noised to ``strength``, under its caption."""
        import torch

        from ims3core.data import resized
        from ims3core.data.pools import CandidateBatch

        pipeline = _pipeline(self.model, self.revision, machine)
        captions = _captions(Path(self.captions).expanduser(), inputs)
        prototypes: dict[tuple[int, int, int], list[ClusterPrototype]] = {}

        def draw(keys: list[CandidateKey]) -> Tensor:
            for key in keys:
                if key[:3] not in prototypes:
                    prototypes.update(self._prototypes(pipeline, captions, inputs, spec, key.class_index))
            starts = [prototypes[key[:3]][key.index] for key in keys]
            with torch.inference_mode():
                images: Tensor = pipeline(
                    prompt=[start.prompt for start in starts],
                    image=torch.stack([start.latent for start in starts]).to(machine.device, machine.dtype),
                    strength=self.strength, guidance_scale=self.guidance, num_inference_steps=self.steps,
                    generator=[torch.Generator().manual_seed(spec.seed(key)) for key in keys], output_type="pt",
                ).images  # fmt: skip
            return images.float().mul(255).round().clamp(0, 255).to(torch.uint8).cpu()

        def make(keys: list[CandidateKey]) -> CandidateBatch:
            size = self.batch_size
            drawn = torch.cat([draw(keys[first : first + size]) for first in range(0, len(keys), size)])
            channels, side, _ = inputs.train.images.shape[1:]
            images = resized(drawn, side)
            if channels != 3:
                images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
            return CandidateBatch(images)

        return make

    def user_paths(self) -> list[str]:
        return [self.model, self.captions]

    def network_calls(self, spec: PoolSpec) -> int:
        """The steps that are walked, twice with guidance."""
        return min(int(self.steps * self.strength), self.steps) * (2 if self.guidance > 1 else 1)

    def _prototypes(
        self, pipeline: Any, captions: list[str], inputs: PoolInputs, spec: PoolSpec, class_index: int
    ) -> dict[tuple[int, int, int], list[ClusterPrototype]]:
        """The prototypes of one class, by IPC, draw and class."""
        from ims3core.base.seeds import derive_seed
        from ims3core.diffusion.latents import k_means

        rows = (inputs.train.class_index == class_index).nonzero().flatten()
        latents = _encoded(pipeline, inputs.train.images, rows, self.side, self.batch_size)
        texts = [captions[int(row)] for row in rows]
        kept = inliers(latents, neighbours=self.neighbours, contamination=self.contamination)
        row, prototypes = inputs.classes[class_index], {}
        for ipc in spec.ipcs:
            if len(kept) < spec.count(ipc):
                raise DataError(f"class {row.name}: {len(kept)} images without outliers, wanted at least IPC {ipc}")
            for draw in range(spec.draws):
                seed = derive_seed(spec.root_seed, f"clusters-{spec.noise_stream}", draw, class_index, ipc) % 2**31
                centres, cluster = k_means(latents[kept], spec.count(ipc), restarts=self.restarts, seed=seed)
                members = [[texts[int(n)] for n in kept[cluster == k]] for k in range(len(centres))]
                prompts = [
                    caption(group, texts, row.human_name, common=self.common, words=self.words) for group in members
                ]
                starts = centres.float().view(-1, *latents.shape[1:])
                prototypes[ipc, draw, class_index] = list(map(ClusterPrototype, starts, prompts))
        return prototypes


def inliers(latents: Tensor, *, neighbours: int, contamination: float) -> Tensor:
    """Rows of latents (N, ...) that are no outliers by their local density; all where there are three or less."""
    import torch
    from sklearn.neighbors import LocalOutlierFactor

    if len(latents) <= 3:
        return torch.arange(len(latents))
    finder = LocalOutlierFactor(n_neighbors=min(neighbours, len(latents) - 1), contamination=contamination)
    return torch.from_numpy(finder.fit_predict(latents.flatten(1).double().numpy()) == 1).nonzero().flatten()


def caption(cluster: list[str], texts: list[str], name: str, *, common: float, words: int) -> str:
    """The caption of a ``cluster`` that says most of what its captions say.

    Stop words, the words of the class name and those in a share of ``common`` or more of the class's ``texts`` say
    nothing; of the others the ``words`` most frequent in the cluster count, each with its frequency. The first of
    equals.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    frequency = Counter(word for text in texts for word in set(split(text)))
    dull = {word for word, count in frequency.items() if count >= common * len(texts)}
    dull |= ENGLISH_STOP_WORDS | set(split(name))
    counts = Counter(word for text in cluster for word in split(text) if word not in dull)
    weight = dict(counts.most_common(words))
    return max(cluster, key=lambda text: sum(weight.get(word, 0) for word in set(split(text))))


def split(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower())


def _encoded(pipeline: Any, images: Tensor | IndexedImages, rows: Tensor, side: int, batch_size: int) -> Tensor:
    """Scaled posterior means, float32 (N, channels, h, w), of the images ``rows`` at the model's side."""
    import torch

    from ims3core.data import resized, signed

    vae, means = pipeline.vae, []
    with torch.inference_mode():
        for part in rows.split(batch_size):
            pixels = signed(resized(images[part], side)).expand(-1, 3, -1, -1)
            mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean
            means.append((mean * vae.config.scaling_factor).float().cpu())
    return torch.cat(means)


def _captions(path: Path, inputs: PoolInputs) -> list[str]:
    """The caption of every training image, in their order."""
    from ims3core.data.spreadsheet import read_table

    names = inputs.train.names
    if names is None:
        raise ParameterError("text_to_image.captions: captions are by file, wanted data.source: imagefolder")
    table = {row["file"]: row["caption"] for row in read_table(path, CAPTIONS, needed="file")}
    missing = [name for name in names if not table.get(name)]
    if missing:
        raise DataError(
            f"text_to_image.captions: {path}: {len(missing)} of {len(inputs.train.images)} training images have no "
            f"caption, the first is {missing[0]}"
        )
    return [table[name] for name in names]


def _pipeline(model: str, revision: str | None, machine: Machine) -> Any:
    """The image-to-image pipeline of a Stable Diffusion model, without its safety checker."""
    from ims3core.base.hub import cache_if_unreachable
    from ims3core.base.library_errors import translate_errors
    from ims3core.data import weights

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
    reachable = contextlib.nullcontext() if folder.is_dir() else cache_if_unreachable()
    with translate_errors(where, ArtifactError, advice=advice), reachable:
        pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
            model, revision=revision, torch_dtype=machine.dtype, safety_checker=None, requires_safety_checker=False,
            local_files_only=folder.is_dir(),
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(machine.device)
