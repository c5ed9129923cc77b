"""Generators that exist: authors' checkpoints, pipeline folders, hub ids; what does not fit is named."""

import argparse
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ims3core.base import files
from ims3core.diffusion import dit_layout, pretrained
from ims3core.diffusion.autoencoder import build_autoencoder
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.generator import write_generator
from ims3core.errors import ArtifactError, ParameterError

CONFIG = DitConfig(channels=4, side=8, patch=2, width=48, depth=3, heads=4, classes=7)
PT = {"revision": None, "sha256": None, "heads": 4}


def original_state(config=CONFIG, seed=0):
    """Random weights under the parameter names of DiT's authors, written out here a second time."""
    width, stream = config.width, torch.Generator().manual_seed(seed)
    shapes = {"pos_embed": (1, config.tokens, width), "y_embedder.embedding_table.weight": (config.classes + 1, width)}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    layer("x_embedder.proj", width, config.channels, config.patch, config.patch)
    layer("t_embedder.mlp.0", width, 256)
    layer("t_embedder.mlp.2", width, width)
    for n in range(config.depth):
        layer(f"blocks.{n}.attn.qkv", 3 * width, width)
        layer(f"blocks.{n}.attn.proj", width, width)
        layer(f"blocks.{n}.mlp.fc1", 4 * width, width)
        layer(f"blocks.{n}.mlp.fc2", width, 4 * width)
        layer(f"blocks.{n}.adaLN_modulation.1", 6 * width, width)
    layer("final_layer.linear", config.patch**2 * 2 * config.channels, width)
    layer("final_layer.adaLN_modulation.1", 2 * width, width)
    return {name: 0.2 * torch.randn(shape, generator=stream) for name, shape in shapes.items()}


@pytest.fixture
def vae(tmp_path):
    """A VAE of 4 latent channels that halves the side once, as a folder."""
    network = build_autoencoder(image_channels=3, side=16, latent_channels=4, widths=[8, 8], seed=0)
    network.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.fixture
def pipeline(tmp_path, vae):
    """A complete DiTPipeline folder with random weights."""
    torch.save(original_state(), tmp_path / "o.pt")
    network, decoder, _ = pretrained.load(model=str(tmp_path / "o.pt"), vae=str(vae), **PT)
    write_generator(tmp_path / "pipeline", network, decoder)
    return tmp_path / "pipeline"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrapped", ["bare", "training"])
def test_an_authors_checkpoint_equals_diffusers(tmp_path, wrapped):
    """The same weights in diffusers' own class give the same output within 1e-5; `ema` wins in a training checkpoint."""
    from diffusers import DiTTransformer2DModel

    state = original_state()
    if wrapped == "training":
        other = original_state(seed=9)
        torch.save({"model": other, "ema": state, "opt": {}, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "o.pt")
    else:
        torch.save(state, tmp_path / "o.pt")
    ours = pretrained.read_original(tmp_path / "o.pt", heads=4, time_features="diffusers").eval()
    assert ours.config == CONFIG

    dit_layout.write_transformer(tmp_path / "transformer", ours)
    theirs = DiTTransformer2DModel.from_pretrained(tmp_path / "transformer").eval()
    for block in theirs.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0
    stream = torch.Generator().manual_seed(3)
    z, t, label = (
        torch.randn(5, 4, 8, 8, generator=stream),
        torch.tensor([0, 1, 500, 998, 999]),
        torch.tensor([0, 3, 6, 7, 7]),
    )
    with torch.no_grad():
        assert torch.allclose(ours(z, t, label), theirs(z, timestep=t, class_labels=label).sample, atol=1e-5)


def authors_features(t, dim=256, max_period=10000):
    """The sinusoidal features of the paper's module, written out: frequencies fall by i / (dim / 2)."""
    half = dim // 2
    rows = []
    for value in t.tolist():
        angles = [value * max_period ** (-i / half) for i in range(half)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    return torch.tensor(rows)


def test_an_authors_checkpoint_has_the_authors_time_features(tmp_path):
    """The embedding of a timestep is that of the authors' formula within 1e-5; diffusers' is another."""
    state = original_state()
    torch.save(state, tmp_path / "o.pt")
    network, t = pretrained.read_original(tmp_path / "o.pt", heads=4), torch.tensor([0, 1, 250, 500, 999])

    weights = [(state[f"t_embedder.mlp.{n}.weight"], state[f"t_embedder.mlp.{n}.bias"]) for n in (0, 2)]
    hidden = torch.nn.functional.silu(authors_features(t) @ weights[0][0].T + weights[0][1])
    wanted = hidden @ weights[1][0].T + weights[1][1]
    with torch.no_grad():
        torch.testing.assert_close(network.t_embedder(t), wanted, atol=1e-5 * wanted.abs().max().item(), rtol=0)
        shifted = pretrained.read_original(tmp_path / "o.pt", heads=4, time_features="diffusers").t_embedder(t)
    assert (shifted - wanted).abs().max() > 0.01


def test_a_folder_says_which_time_features_its_weights_have(tmp_path, vae):
    """Kept through writing and reading; a hub folder of the authors has theirs, another folder diffusers'."""
    torch.save(original_state(), tmp_path / "o.pt")
    network, decoder, _ = pretrained.load(model=str(tmp_path / "o.pt"), vae=str(vae), **PT)
    write_generator(tmp_path / "kept", network, decoder)
    assert dit_layout.read_transformer(tmp_path / "kept/transformer").config.time_features == "original"

    (tmp_path / "kept/transformer" / dit_layout.TIME).unlink()
    (tmp_path / "kept").rename(tmp_path / "DiT-XL-2-256")
    shutil.copytree(tmp_path / "DiT-XL-2-256", tmp_path / "mine")
    arguments = {"revision": None, "sha256": None, "heads": None, "vae": None}

    def kind(folder, **changes):
        return pretrained.load(model=str(tmp_path / folder), **arguments | changes)[0].config.time_features

    assert (kind("DiT-XL-2-256"), kind("mine")) == ("original", "diffusers")
    assert kind("mine", time_features="original") == "original"
    (tmp_path / "mine/transformer" / dit_layout.TIME).write_text('"half"')
    with pytest.raises(ArtifactError, match="time_features.json: found 'half', wanted 'diffusers' or 'original'"):
        kind("mine")


def test_the_number_of_classes_is_read_off_the_weights(pipeline):
    """Seven classes: the null class is 7, not 1000."""
    network = dit_layout.read_transformer(pipeline / "transformer")
    assert (network.config.classes, network.null_label) == (7, 7)


def test_xl_2_has_the_published_sizes():
    """Read off the shapes of DiT-XL/2 on the meta device: 675 M weights, 28 blocks, 16 heads, 1000 classes."""
    config = DitConfig(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000)
    with torch.device("meta"):
        network = DiT(config)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(675.1e6, rel=1e-3)
    assert pretrained.HEADS[1152] == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.attn.proj.bias"), r"key blocks\.1\.attn\.proj\.bias is missing"),
        (lambda s: s.update({"blocks.0.extra": torch.ones(1)}), r"unexpected key blocks\.0\.extra \(1 in all\)"),
        (lambda s: s.update({"blocks.2.mlp.fc1.weight": torch.ones(2, 2)}), r"mlp_in\.weight has shape \(2, 2\)"),
    ],
    ids=["missing", "extra", "shape"],
)
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, change, message):
    """The first key that is missing, left over or of another shape."""
    state = original_state()
    change(state)
    torch.save(state, tmp_path / "o.pt")
    with pytest.raises(ArtifactError, match=message):
        pretrained.read_original(tmp_path / "o.pt", heads=4)


@pytest.mark.parametrize("how", ["safetensors", "ddp", "compiled", "lightning", "half"])
def test_a_checkpoint_of_the_authors_in_any_wrapping_is_the_same_network(tmp_path, how):
    """What training scripts put around weights and names goes; half precision is read as float32."""
    state = original_state()
    torch.save(state, tmp_path / "o.pt")
    wanted = pretrained.read_original(tmp_path / "o.pt", heads=4).state_dict()
    other = original_state(seed=5)
    path = tmp_path / ("o.safetensors" if how == "safetensors" else "o.ckpt")
    if how == "safetensors":
        save_file(state, path)
    else:
        torch.save(
            {
                "ddp": {f"module.{k}": v for k, v in state.items()},
                "compiled": {"model": {f"_orig_mod.{k}": v for k, v in state.items()}},
                "lightning": {
                    "state_dict": {f"model.{k}": v for k, v in other.items()}
                    | {f"ema.{k}": v for k, v in state.items()},
                    "pytorch-lightning_version": "2.5",
                },
                "half": {k: v.half() for k, v in state.items()},
            }[how],
            path,
        )
    found = pretrained.read_original(path, heads=4).state_dict()
    for key, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, wanted[key], atol=1e-3 if how == "half" else 0, rtol=0)


@pytest.mark.parametrize(
    ("change", "heads", "kind", "message"),
    [
        (lambda s: s["blocks.1.mlp.fc2.bias"].fill_(math.inf), 4, ArtifactError, r"blocks\.1\.mlp\.fc2\.bias holds values that are not numbers"),
        (lambda s: s, 5, ParameterError, r"generator\.heads: found 5, the width 48"),
        (lambda s: s.update({"y_embedder.embedding_table.weight": torch.ones(1000, 48)}), 4, ArtifactError, "1000 rows.*no null class"),
        (lambda s: s.update({"pos_embed": torch.ones(3)}), 4, ArtifactError, r"pos_embed has shape \(3,\), wanted 3 dimensions"),
        (lambda s: s.pop("y_embedder.embedding_table.weight"), 4, ArtifactError, "not a class-conditional checkpoint"),
    ],
    ids=["infinite", "heads", "no-null-class", "rank", "text-conditioned"],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_a_class_conditional_dit_is_refused(tmp_path, change, heads, kind, message):
    state = original_state()
    change(state)
    torch.save(state, tmp_path / "o.pt")
    with pytest.raises(kind, match=message):
        pretrained.read_original(tmp_path / "o.pt", heads=heads)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    """Nothing of it runs."""
    torch.save({"model": original_state(), "hook": Evil()}, tmp_path / "o.pt")
    with pytest.raises(ArtifactError, match=r"o\.pt: a pickle that holds more than weights"):
        pretrained.read_original(tmp_path / "o.pt", heads=4)
    assert "code ran" not in capsys.readouterr().out


def test_truncated_missing_and_altered_checkpoints_are_named(tmp_path, vae):
    """Each with the file, and for the SHA-256 what was found."""
    path = tmp_path / "o.pt"
    with pytest.raises(ArtifactError, match=r"o\.pt: no such file"):
        pretrained.load(model=str(path), vae=str(vae), **PT)
    torch.save(original_state(), path)
    with pytest.raises(ArtifactError, match=r"its SHA-256 is [0-9a-f]{64}, generator\.sha256 says 000"):
        pretrained.load(model=str(path), vae=str(vae), **PT | {"sha256": "0" * 64})
    with pytest.raises(ParameterError, match=r"generator\.vae: found null"):
        pretrained.load(model=str(path), vae=None, **PT)
    with pytest.raises(ParameterError, match=r"generator\.heads: found null; o\.pt has width 48"):
        pretrained.load(model=str(path), vae=str(vae), **PT | {"heads": None})
    assert pretrained.load(model=str(path), vae=str(vae), **PT | {"sha256": files.sha256(path)})[2] == "o.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match=r"o\.pt: not a complete checkpoint"):
        pretrained.load(model=str(path), vae=str(vae), **PT)


@pytest.mark.filterwarnings("ignore")
def test_older_folders_with_bin_files_are_read(pipeline, tmp_path):
    """The hub's DiT-XL/2 holds .bin files; the result is the same network."""
    expected = dit_layout.read_transformer(pipeline / "transformer").state_dict()
    for part in ("transformer", "vae"):
        weights = pipeline / part / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    network, _, source = pretrained.load(model=str(pipeline), revision=None, sha256=None, heads=None, vae=None)
    assert source == "pipeline"
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_a_folder_whose_embedding_copies_differ_is_refused(pipeline):
    """Not a DiT: all blocks share one embedding."""
    path = pipeline / "transformer/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"][0, 0] += 1
    save_file(state, path)
    with pytest.raises(ArtifactError, match=r"transformer_blocks\.2\.norm1.* differs from block 0"):
        pretrained.load(model=str(pipeline), revision=None, sha256=None, heads=None, vae=None)


def test_a_vae_that_does_not_fit_is_refused(pipeline, tmp_path):
    """Latent channels, image side and image channels, each with its key."""
    network, decoder, _ = pretrained.load(model=str(pipeline), revision=None, sha256=None, heads=None, vae=None)
    pretrained.check_side(network, decoder, side=16, channels=3)
    with pytest.raises(ParameterError, match=r"data\.side: found 32 px, this generator makes 16 px"):
        pretrained.check_side(network, decoder, side=32, channels=3)
    with pytest.raises(ParameterError, match=r"data\.channels: found 1"):
        pretrained.check_side(network, decoder, side=16, channels=1)
    build_autoencoder(image_channels=3, side=16, latent_channels=2, widths=[8], seed=0).save_pretrained(
        tmp_path / "two"
    )
    with pytest.raises(ArtifactError, match=r"has 2 latent channels, the transformer of .* wants 4"):
        pretrained.load(model=str(pipeline), revision=None, sha256=None, heads=None, vae=str(tmp_path / "two"))


@pytest.mark.parametrize("choice", ["ema", "mse"])
def test_what_is_not_there_offline_is_one_line_that_says_what_to_get(pipeline, monkeypatch, choice):
    """Command, revision and the key that then names the folder."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    hub = {"model": "facebook/DiT-XL-2-256", "revision": "abc", "sha256": None, "heads": None}
    with pytest.raises(
        ParameterError,
        match=r"hf download facebook/DiT-XL-2-256 --revision abc --local-dir DiT-XL-2-256` and .*generator\.model",
    ):
        pretrained.load(**hub, vae=None)
    with pytest.raises(ParameterError, match=rf"generator\.vae: stabilityai/sd-vae-ft-{choice} is not"):
        pretrained.load(**hub | {"model": str(pipeline)}, vae=choice)
    with pytest.raises(ParameterError, match=r"generator\.model: \./nowhere: no such file or folder"):
        pretrained.load(**hub | {"model": "./nowhere"}, vae=None)


def test_a_hub_repository_is_read_from_the_cache_with_its_commit(pipeline, monkeypatch, tmp_path):
    """The commit that was found becomes part of the generator's manifest."""
    import huggingface_hub

    cached = tmp_path / "snapshots" / "0123abcd"
    cached.parent.mkdir()
    Path(pipeline).rename(cached)
    asked = {}

    def found(name, **options):
        asked.update(options, name=name)
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    source = pretrained.load(model="some/dit", revision="v1", sha256=None, heads=None, vae=None)[2]
    assert source == "some/dit@0123abcd"
    assert (asked["name"], asked["revision"]) == ("some/dit", "v1")
