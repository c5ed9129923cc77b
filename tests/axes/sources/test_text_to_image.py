"""DDVLCP: prototypes of latents and captions against plain versions, on a tiny random Stable Diffusion pipeline."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ims3core.axes.guides.none import NoGuide
from ims3core.axes.samplers.none import NoSampler
from ims3core.axes.sources import PoolSpec
from ims3core.axes.sources.text_to_image import TextToImage, caption
from ims3core.base import compute
from ims3core.data import IndexedImages, pools
from ims3core.data.decode import decode, digest
from ims3core.errors import ArtifactError, DataError, ParameterError

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES, PER_CLASS = ("cat", "dog"), 9
SECTION = {
    "revision": None, "side": 16, "neighbours": 3, "contamination": 0.2, "restarts": 2, "common": 0.7, "words": 30,
    "strength": 0.7, "guidance": 3.0, "steps": 4, "batch_size": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Random weights of every part, saved as diffusers saves them."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("sd")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
    )  # fmt: skip
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    whole = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    whole.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture
def inputs(tmp_path):
    """Two classes of pictures that stay where they are, and their captions."""
    stream, names, digests = np.random.default_rng(0), [], []
    for n in range(2 * PER_CLASS):
        name = f"{NAMES[n % 2]}/{n:02d}.png"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(stream.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(tmp_path / name)
        names.append(name)
        digests.append(digest(decode(tmp_path / name, side=12, channels=3)))
    said = [
        f'"a {NAMES[n % 2]} on a {"sofa" if n % 4 < 2 else "lawn"}, number {"abcdefghi"[n // 2]}"'
        for n in range(len(names))
    ]
    (tmp_path / "captions.csv").write_text("file,caption\n" + "\n".join(map(",".join, zip(names, said, strict=True))))
    train = SimpleNamespace(
        images=IndexedImages(tmp_path, names, digests, 12, 3), class_index=torch.arange(len(names)) % 2, names=names
    )
    return SimpleNamespace(train=train, classes=[SimpleNamespace(name=name, human_name=name) for name in NAMES])


def pool_spec(ipcs=(1, 3)):
    return PoolSpec(
        root_seed=0, noise_stream="p", draws=2, classes=2, per_class=0, batch_size=5, ipcs=ipcs, sampler=NoSampler(),
        guide=NoGuide(),
    )  # fmt: skip


def build(inputs, tmp_path, pipeline, spec=None, **changes):
    machine = compute.machine(device="cpu", precision="fp32", compile=False, threads=1)
    section = {**SECTION, "model": str(pipeline), "captions": str(tmp_path / "captions.csv"), **changes}
    return TextToImage(**section).build(inputs, spec or pool_spec(), machine)


def test_images_of_every_place_whatever_their_company(inputs, tmp_path, pipeline):
    """As many as asked for, 12 px again; alone or among others the same up to rounding; another draw is another image."""
    make, keys = build(inputs, tmp_path, pipeline), [key for shard in pool_spec().shards() for key in shard]
    images = make(keys).images
    assert (images.dtype, images.shape) == (torch.uint8, (2 * 2 * (1 + 3), 3, 12, 12))
    for n in (0, 5, 15):
        alone = build(inputs, tmp_path, pipeline)([keys[n]]).images[0]
        assert (alone.int() - images[n].int()).abs().max() <= 1
    places = [(key.ipc, key.class_index, key.index) for key in keys]
    for a in range(len(keys)):
        for b in range(a):
            if places[a] == places[b]:
                assert not torch.equal(images[a], images[b])


def test_an_image_is_the_pipeline_on_its_prototype(inputs, tmp_path, pipeline):
    """Written out: encode, drop outliers, cluster, choose the caption, image to image with the seed of the place."""
    from diffusers import StableDiffusionImg2ImgPipeline
    from sklearn.cluster import KMeans
    from sklearn.neighbors import LocalOutlierFactor

    from ims3core.base.seeds import derive_seed
    from ims3core.data import resized, signed

    key = pools.CandidateKey(3, 1, 1, 2)
    made = build(inputs, tmp_path, pipeline)([key]).images[0]

    plain = StableDiffusionImg2ImgPipeline.from_pretrained(pipeline, safety_checker=None, local_files_only=True)
    rows = [n for n in range(2 * PER_CLASS) if n % 2 == 1]
    with torch.no_grad():
        pixels = resized(inputs.train.images[torch.tensor(rows)], 16)
        latents = (
            torch.cat([plain.vae.encode(signed(p[None])).latent_dist.mean for p in pixels])
            * plain.vae.config.scaling_factor
        )
    flat = latents.flatten(1).double().numpy()
    kept = [
        n for n, sign in enumerate(LocalOutlierFactor(n_neighbors=3, contamination=0.2).fit_predict(flat)) if sign == 1
    ]
    assert len(kept) < len(rows)
    seed = derive_seed(0, "clusters-p", 1, 1, 3) % 2**31
    clusters = KMeans(3, n_init=2, random_state=seed).fit(flat[kept])
    lines = [line.split(",", 1)[1].strip('"') for line in (tmp_path / "captions.csv").read_text().splitlines()[1:]]
    mine = [lines[rows[n]] for n in kept]
    words = Counter(
        w for text, c in zip(mine, clusters.labels_, strict=True) if c == 2 for w in text.replace(",", "").split()
    )
    for word in ("a", "on", "dog", "number"):
        del words[word]
    prompt = max((text for text, c in zip(mine, clusters.labels_, strict=True) if c == 2),
                 key=lambda text: sum(words[w] for w in set(text.replace(",", "").split())))  # fmt: skip
    centre = torch.from_numpy(clusters.cluster_centers_[2]).float().view(1, *latents.shape[1:])
    image = plain(
        prompt=[prompt], image=centre, strength=0.7, guidance_scale=3.0, num_inference_steps=4, output_type="pt",
        generator=[torch.Generator().manual_seed(pool_spec().seed(key))],
    ).images  # fmt: skip
    expected = resized(image.mul(255).round().clamp(0, 255).to(torch.uint8), 12)[0]
    assert (made.int() - expected.int()).abs().max() <= 1


def test_a_caption_says_most_of_its_cluster():
    """Stop words, the class and what every caption says do not count."""
    whole = [
        "a photo of a cat on a red sofa",
        "a photo of a cat on a sofa",
        "a photo of the cat in grass",
        "a photo of a cat",
    ]
    choose = {"common": 0.7, "words": 30}
    assert caption(whole[:3], whole, "cat", **choose) == whole[0]  # sofa 2, red 1
    assert caption(whole[2:], whole, "cat", **choose) == whole[2]
    assert caption(whole[:3], whole, "cat", common=0.7, words=1) == whole[0]  # sofa alone, the first
    assert caption(["cat", "a cat"], ["cat", "a cat"], "cat", **choose) == "cat"


def test_strength_decides_how_much_of_the_prototype_is_left(inputs, tmp_path, pipeline):
    """One thing differs: the same seeds with another strength or guidance give other images."""
    keys = [pools.CandidateKey(1, 0, 0, 0)]
    images = [build(inputs, tmp_path, pipeline, **c)(keys).images for c in ({}, {"strength": 0.3}, {"guidance": 9.0})]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_what_is_missing_or_something_else_is_one_line(inputs, tmp_path, pipeline):
    """Captions, images of a class, the model: each error names the file or key."""
    lines = (tmp_path / "captions.csv").read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join(lines[:-2]))
    with pytest.raises(
        DataError, match=r"short\.csv: 2 of 18 training images have no caption, the first is cat/16\.png"
    ):
        build(inputs, tmp_path, pipeline, captions=str(tmp_path / "short.csv"))
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        build(inputs, tmp_path, pipeline, captions=str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match=r"class cat: \d images without outliers, wanted at least IPC 12"):
        build(inputs, tmp_path, pipeline, pool_spec(ipcs=(12,)))([pools.CandidateKey(12, 0, 0, 0)])
    with pytest.raises(ArtifactError, match=r"text_to_image\.model: /nowhere/x: no such folder"):
        build(inputs, tmp_path, Path("/nowhere/x"))
    (tmp_path / "dit").mkdir()
    (tmp_path / "dit/model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    with pytest.raises(ArtifactError, match=r"a DiTPipeline, wanted a StableDiffusionPipeline"):
        build(inputs, tmp_path, tmp_path / "dit")
    inputs.train.names = None
    with pytest.raises(ParameterError, match=r"captions are by file, wanted data\.source: imagefolder"):
        build(inputs, tmp_path, pipeline)


def test_calls_are_those_of_the_pipeline():
    """The steps that are walked, twice with guidance."""
    section = {**SECTION, "model": "a/b", "captions": "captions.csv"}
    assert TextToImage(**section).network_calls(pool_spec()) == 4
    assert TextToImage(**section | {"guidance": 1.0, "steps": 50}).network_calls(pool_spec()) == 35
