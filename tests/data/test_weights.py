"""Weights as people have them: the same numbers out of every wrapping, and a true line for what cannot be read."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ims3core.classifiers import encoder
from ims3core.data import weights
from ims3core.diffusion import pretrained
from ims3core.diffusion.autoencoder import build_autoencoder, stable_diffusion_autoencoder
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.generator import write_generator
from ims3core.errors import ArtifactError, ParameterError

NAME = "test_resnet"
HTML = b"<!DOCTYPE html><html>log in</html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return timm.create_model(NAME, pretrained=False).state_dict()


def renamed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


WRAPPINGS = {
    "bare.pth": lambda s: s,
    "ddp.pth": lambda s: renamed(s, "module."),
    "compiled.pth": lambda s: renamed(s, "_orig_mod."),
    "ddp-compiled.pth": lambda s: renamed(s, "module._orig_mod."),
    "script.pth.tar": lambda s: {"epoch": 3, "arch": "x", "state_dict": renamed(s, "module."), "optimizer": {"a": 1}},
    "ema.pt": lambda s: {"model": {k: v * 0 for k, v in s.items()}, "ema": s, "opt": {}},
    "lightning.ckpt": lambda s: {
        "state_dict": renamed(s, "net.") | {"loss.weight": torch.ones(3)}, "pytorch-lightning_version": "2.0", "loops": {},
    },
    "both.ckpt": lambda s: {"state_dict": renamed({k: v * 0 for k, v in s.items()}, "model.") | renamed(s, "ema_model.")},
    "half.pth": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_wrapping_holds_the_same_weights(state, tmp_path, name):
    torch.save(WRAPPINGS[name](state), path := tmp_path / name)
    network, _ = encoder.timm_encoder(NAME, path)
    for key, value in network.state_dict().items():
        wanted = state[key].half().float() if name == "half.pth" and state[key].is_floating_point() else state[key]
        assert torch.equal(value, wanted), key


def spoilt(name):
    def write(state, path):
        if name == "html.pth":
            path.write_bytes(HTML)
        elif name == "pointer.safetensors":
            path.write_bytes(POINTER)
        elif name == "empty.pth":
            path.write_bytes(b"")
        elif name == "numpy.pth":
            np.savez(path.with_suffix(".npz"), a=np.ones(2))
            path.with_suffix(".npz").rename(path)
        elif name.startswith("cut"):
            save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
            path.write_bytes(path.read_bytes()[:-3000])
        elif name == "whole.pth":
            torch.save(timm.create_model(NAME, pretrained=False), path)
        elif name == "tensor.pth":
            torch.save(torch.ones(3), path)
        elif name == "settings.pth":
            torch.save({"lr": 0.1, "epoch": 3}, path)
        elif name == "nan.pth":
            torch.save(state | {"fc.bias": state["fc.bias"] * float("nan")}, path)
        elif name == "folder.pth":
            path.mkdir()

    return write


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("html.pth", "an HTML page"), ("pointer.safetensors", "a Git LFS pointer"), ("empty.pth", "an empty file"),
        ("numpy.pth", "a numpy archive"), ("cut.pth", "not a complete checkpoint"), ("folder.pth", "a folder, wanted a file"),
        ("cut.safetensors", "not a complete safetensors file"), ("whole.pth", r"more than weights .*state_dict\(\)"),
        ("tensor.pth", "holds a Tensor"), ("settings.pth", "holds lr, epoch, and no weights"), ("absent.pth", "no such file"),
        ("nan.pth", "fc.bias holds values that are not numbers"),
    ],
)  # fmt: skip
def test_what_is_not_weights_is_called_what_it_is(state, tmp_path, name, says):
    """One line with the key and the file; no advice about networks, no `dvc repro`."""
    spoilt(name)(state, path := tmp_path / name)
    with pytest.raises(ArtifactError, match=rf"encoder\.weights: .*{name}: .*{says}") as caught:
        encoder.timm_encoder(NAME, path)
    assert "network" not in str(caught.value).replace("networks", "")
    assert "dvc" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_head_or_network_are_refused(state, tmp_path):
    """Names and shapes, the first that differs."""
    ten = timm.create_model(NAME, pretrained=False, num_classes=10).state_dict()
    torch.save(ten, tmp_path / "ten.pth")
    with pytest.raises(ParameterError, match=r"ten\.pth: not of test_resnet: fc\.weight has shape \(10, .*head"):
        encoder.timm_encoder(NAME, tmp_path / "ten.pth")
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(
        ParameterError, match=r"vit\.pth: not the weights of test_resnet: \d+ keys missing .* unexpected"
    ):
        encoder.timm_encoder(NAME, tmp_path / "vit.pth")


@pytest.mark.parametrize(
    ("name", "says"),
    [("resnet_50", "do you mean resnet50"), ("ResNet50", "do you mean .*resnet50"),
     ("test_resnet.nope", "not known with the tag 'nope'; known: r160_in1k"), ("local-dir:/nowhere/at/all", "no such folder")],
)  # fmt: skip
def test_a_network_that_does_not_exist_is_no_matter_of_downloads(name, says):
    with pytest.raises(ParameterError, match=rf"encoder\.network: {name}: .*{says}") as caught:
        encoder.timm_encoder(name, None)
    assert "download" not in str(caught.value)


# The generator ------------------------------------------------------------------------------------------------------

SIZES = DitConfig(channels=4, side=8, patch=2, width=48, depth=2, heads=4, classes=7)


@pytest.fixture
def pipeline(tmp_path):
    """A DiTPipeline folder with random weights."""
    torch.manual_seed(0)
    network = DiT(SIZES)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.2)
    vae = build_autoencoder(image_channels=3, side=16, latent_channels=4, widths=[8, 8], seed=0)
    write_generator(tmp_path / "pipeline", network, vae)
    return tmp_path / "pipeline"


def load(model, **keys):
    return pretrained.load(**{"model": str(model), "revision": None, "sha256": None, "heads": 4, "vae": None} | keys)


def as_half(folder):
    from safetensors.torch import load_file

    path = folder / f"{weights.STEM}.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, folder / f"{weights.STEM}.fp16.safetensors")
    path.unlink()


def as_shards(folder, ending="safetensors"):
    from safetensors.torch import load_file

    path = folder / f"{weights.STEM}.safetensors"
    whole, table = load_file(path), {}
    names = sorted(whole)
    for n, part in enumerate((names[::2], names[1::2]), start=1):
        name = f"{weights.STEM}-{n:05d}-of-00002.{ending}"
        tensors = {key: whole[key] for key in part}
        save_file(tensors, folder / name, {"format": "pt"}) if ending == "safetensors" else torch.save(
            tensors, folder / name
        )
        table |= dict.fromkeys(part, name)
    (folder / f"{weights.STEM}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    path.unlink()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["half", "shards", "older-shards"])
def test_folders_of_half_precision_or_in_shards_are_read(pipeline, how):
    """The transformer and the VAE; the same network, up to the rounding of the file."""
    before, vae, _ = load(pipeline)
    for part in ("transformer", "vae"):
        if how == "half":
            as_half(pipeline / part)
        elif part == "transformer" or how == "shards":
            as_shards(pipeline / part, "safetensors" if how == "shards" else "bin")
    after, decoder, _ = load(pipeline)
    for one, two in ((before, after), (vae, decoder)):
        for key, value in one.state_dict().items():
            wanted = value.half().float() if how == "half" else value
            assert torch.equal(two.state_dict()[key], wanted), key
            assert two.state_dict()[key].dtype == torch.float32


def test_a_missing_shard_and_an_empty_folder_are_named(pipeline):
    as_shards(pipeline / "transformer")
    (pipeline / f"transformer/{weights.STEM}-00002-of-00002.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"00002-of-00002\.safetensors: no such file; .*index\.json names it"):
        load(pipeline)
    for path in (pipeline / "transformer").glob("*of*"):
        path.unlink()
    (pipeline / f"transformer/{weights.STEM}.safetensors.index.json").unlink()
    with pytest.raises(ArtifactError, match=r"generator\.model: .*transformer: found config\.json; wanted diffusion"):
        load(pipeline)


def spoil_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: spoil_json(p / "model_index.json", _class_name="StableDiffusionPipeline"), "a StableDiffusionPipeline, wanted a class-conditional DiT"),
        (lambda p: spoil_json(p / "transformer/config.json", _class_name="HunyuanDiT2DModel"), "a HunyuanDiT2DModel, wanted"),
        (lambda p: spoil_json(p / "transformer/config.json", num_layers=None), "num_layers is None, wanted a positive whole number"),
        (lambda p: (p / "transformer/config.json").write_text("[]"), r"config\.json: holds a list, wanted an object"),
        (lambda p: (p / "transformer/config.json").unlink(), r"wanted transformer/config\.json"),
        (lambda p: (p / f"transformer/{weights.STEM}.safetensors").write_bytes(POINTER), "Git LFS pointer"),
        (lambda p: (p / f"vae/{weights.STEM}.safetensors").write_bytes(HTML), "generator.vae: .*an HTML page"),
        (lambda p: spoil_json(p / "vae/config.json", _class_name="VQModel"), "a VQModel, wanted an AutoencoderKL"),
        (lambda p: (p / "vae/config.json").unlink(), r"generator\.vae: .*found no config\.json"),
    ],
)  # fmt: skip
def test_folders_that_are_something_else_are_refused(pipeline, spoil, says):
    spoil(pipeline)
    with pytest.raises(ArtifactError, match=says) as caught:
        load(pipeline)
    assert "dvc repro" not in str(caught.value)


def test_a_single_file_vae_has_stable_diffusions_sizes(tmp_path):
    """Under diffusers' names and wrapped; another architecture is refused."""
    vae = stable_diffusion_autoencoder()
    torch.save({"state_dict": vae.state_dict()}, tmp_path / "vae.ckpt")
    read = pretrained._vae(str(tmp_path / "vae.ckpt"))
    assert all(torch.equal(read.state_dict()[key], value) for key, value in vae.state_dict().items())
    small = build_autoencoder(image_channels=3, side=16, latent_channels=4, widths=[8, 8], seed=0)
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(ArtifactError, match=r"generator\.vae: .*small\.safetensors: not a VAE of Stable Diffusion"):
        pretrained._vae(str(tmp_path / "small.safetensors"))
