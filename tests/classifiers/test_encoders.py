"""Encoders: own networks and timm models with their own preprocessing."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ims3core.base import files
from ims3core.classifiers import encoder
from ims3core.errors import ArtifactError, ParameterError

NAME = "test_resnet.r160_in1k"


@pytest.fixture
def weights(tmp_path):
    """Random weights of a small timm model as a local file."""
    torch.manual_seed(0)
    files.write_tensors(tmp_path / "w.safetensors", timm.create_model(NAME, pretrained=False).state_dict())
    return tmp_path / "w.safetensors"


@pytest.fixture
def written(weights, tmp_path):
    """The encoder made of them, as a stage writes and reads it."""
    network, config = encoder.timm_encoder(NAME, weights)
    encoder.write_encoder(tmp_path / "encoder", network, config)
    files.write_manifest(tmp_path / "encoder", "encoder")
    return encoder.read_encoder(tmp_path / "encoder")


def test_preprocessing_is_that_of_timm(written):
    """Resize, crop, mean and std follow timm's data config; timm's own transform differs by rounding only."""
    model = timm.create_model(NAME, pretrained=False)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 200, 200), dtype=np.uint8))
    pixels = torch.nn.functional.avg_pool2d(pixels.float(), 9, 1, 4).to(torch.uint8)  # photographs are smooth
    theirs = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in pixels])

    ours = written.preprocess(pixels)

    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 2.5 / 255 / 0.22


def test_features_are_those_before_the_classifier(written, weights):
    """Unit norm, and as long as timm says; a grey image counts as a colour image of equal channels."""
    model = timm.create_model(NAME, pretrained=False, checkpoint_path=str(weights)).eval()
    grey = torch.randint(0, 256, (3, 1, 40, 40), dtype=torch.uint8)
    features = written.features(grey)
    assert features.shape == (3, model.num_features)
    assert torch.allclose(features.norm(dim=1), torch.ones(3))
    assert torch.equal(features, written.features(grey.expand(-1, 3, -1, -1)))


def test_weights_that_are_missing_or_foreign_are_named(tmp_path, monkeypatch):
    """The key and what to do without a network."""
    with pytest.raises(ParameterError, match=r"encoder\.network: no_such_model: unknown to timm"):
        encoder.timm_encoder("no_such_model", None)
    with pytest.raises(ArtifactError, match=r"encoder\.weights: .*none\.safetensors: no such file"):
        encoder.timm_encoder(NAME, tmp_path / "none.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ParameterError, match=r"without a network, download them elsewhere"):
        encoder.timm_encoder(NAME, None)


def test_weights_of_another_network_are_refused(written, tmp_path):
    """A directory whose two files do not belong together."""
    files.write_tensors(tmp_path / "encoder/weights.safetensors", {"x": torch.ones(1)})
    files.write_manifest(tmp_path / "encoder", "encoder")
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: does not fit test_resnet"):
        encoder.read_encoder(tmp_path / "encoder")
