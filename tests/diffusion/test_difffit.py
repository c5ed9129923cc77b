"""DiffFit: the set of trainable weights and the delta file."""

import pytest
import torch

from ims3core.diffusion import difffit
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.errors import ArtifactError


def test_dit_xl_has_the_published_number_of_trainable_weights():
    """Biases 489,632, scales 96,768, label table 1,153,152: 1,739,552 in all."""
    with torch.device("meta"):
        network = DiT(DitConfig(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000))
    difffit.add_scales(network, 0.5)
    weights = difffit.freeze_all_but_difffit(network)

    def count(part):
        return sum(p.numel() for name, p in weights.items() if part in name)

    assert (count("bias"), count("gamma"), count("y_embedder")) == (489_632, 96_768, 1_153_152)
    assert sum(p.numel() for p in weights.values()) == 1_739_552


def test_scales_of_one_change_nothing(tiny_dit):
    """Adding scales leaves the output as it was, to the bit."""
    inputs = torch.randn(2, 4, 4, 4), torch.tensor([3, 700]), torch.tensor([0, 1])
    with torch.inference_mode():
        before = tiny_dit(*inputs)
    difffit.add_scales(tiny_dit, 0.5)
    with torch.inference_mode():
        assert torch.equal(tiny_dit(*inputs), before)
    assert tiny_dit.blocks[0].gamma_mlp is not None
    assert tiny_dit.blocks[1].gamma_mlp is None


@pytest.mark.parametrize("name", ["attention.gamma_qkv", "attention.gamma_proj", "gamma_attention", "gamma_mlp"])
def test_every_scale_matters(tiny_dit, name):
    """Doubling any one scale changes the output: all four are in the computation."""
    inputs = torch.randn(2, 4, 4, 4), torch.tensor([3, 700]), torch.tensor([0, 1])
    difffit.add_scales(tiny_dit, 0.5)
    with torch.inference_mode():
        before = tiny_dit(*inputs)
        tiny_dit.blocks[0].get_parameter(name).mul_(2)
        assert not torch.allclose(tiny_dit(*inputs), before, atol=1e-4)


def test_a_delta_restores_the_fine_tuned_network(tiny_dit, tmp_path):
    """Base weights plus the delta file compute what the fine-tuned network computes, to the bit."""
    base = {name: value.clone() for name, value in tiny_dit.state_dict().items()}
    difffit.add_scales(tiny_dit, 1.0)
    weights = difffit.freeze_all_but_difffit(tiny_dit)
    for p in weights.values():
        p.data.add_(0.1)
    difffit.write_delta(tmp_path / "delta.safetensors", weights)
    inputs = torch.randn(2, 4, 4, 4), torch.tensor([3, 700]), torch.tensor([0, 1])

    fresh = DiT(tiny_dit.config).eval()
    fresh.load_state_dict(base)
    difffit.apply_delta(fresh, tmp_path / "delta.safetensors")

    with torch.inference_mode():
        assert torch.equal(fresh(*inputs), tiny_dit(*inputs))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"blocks.9.mlp_in.bias": torch.zeros(64)}, r"blocks\.9\.mlp_in\.bias has no place"),
        ({"blocks.0.mlp_in.bias": torch.zeros(3)}, r"has shape \(3,\), the generator's is \(64,\)"),
    ],
    ids=["unknown", "shape"],
)
def test_a_delta_of_another_generator_is_refused(tiny_dit, tmp_path, weights, message):
    """The error names the weight."""
    difffit.write_delta(tmp_path / "delta.safetensors", weights)

    with pytest.raises(ArtifactError, match=message):
        difffit.apply_delta(tiny_dit, tmp_path / "delta.safetensors")
