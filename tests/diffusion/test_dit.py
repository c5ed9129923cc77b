"""Our DiT against diffusers' class, and the two weight layouts."""

import json
import warnings

import pytest
import torch

from ims3core.diffusion import dit_layout
from ims3core.diffusion.dit import SHORT_SEQUENCE, DiT, DitConfig, initialise
from ims3core.errors import ArtifactError


def diffusers_twin(network):
    """The same weights in diffusers' DiTTransformer2DModel."""
    from diffusers import DiTTransformer2DModel

    twin = DiTTransformer2DModel(**dit_layout.config_to_diffusers(network.config)).eval()
    missing, unexpected = twin.load_state_dict(
        dit_layout.to_diffusers(network.state_dict(), network.config.depth), strict=False
    )
    assert not unexpected
    assert set(missing) <= {"pos_embed.pos_embed"}
    return twin


@pytest.mark.parametrize(
    "config",
    [
        DitConfig(channels=4, side=4, patch=2, width=16, depth=2, heads=2, classes=3, norm_eps=1e-5),
        DitConfig(channels=4, side=32, patch=2, width=48, depth=3, heads=4, classes=1000, norm_eps=1e-6),
        DitConfig(channels=3, side=8, patch=4, width=24, depth=1, heads=3, classes=7),
    ],
    ids=["tiny", "long-sequence", "patch-4"],
)
def test_same_weights_same_output_as_diffusers(config):
    """With equal weights the two implementations agree within 1e-5."""
    network = DiT(config)
    stream = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.1, generator=stream)
    z = torch.randn(5, config.channels, config.side, config.side, generator=stream)
    t, label = torch.tensor([0, 1, 500, 998, 999]), torch.tensor([0, 1, 2, 0, config.classes])

    with torch.inference_mode():
        theirs = diffusers_twin(network)(z, timestep=t, class_labels=label).sample
        ours = network.eval()(z, t, label)

    assert theirs.abs().mean() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (config.tokens > SHORT_SEQUENCE) == (config.side == 32)


def test_both_attention_paths_compute_the_same(tiny_dit, monkeypatch):
    """The written-out product and torch's fused attention agree."""
    inputs = torch.randn(2, 4, 4, 4), torch.tensor([3, 700]), torch.tensor([0, 3])
    with torch.inference_mode():
        short = tiny_dit(*inputs)
        monkeypatch.setattr("ims3core.diffusion.dit.SHORT_SEQUENCE", 0)
        torch.testing.assert_close(tiny_dit(*inputs), short, rtol=0, atol=1e-5)


def test_reading_what_was_written_gives_the_same_weights(tiny_dit, tmp_path):
    """write_transformer and read_transformer are inverse, including positions and sizes."""
    dit_layout.write_transformer(tmp_path, tiny_dit)

    again = dit_layout.read_transformer(tmp_path)

    assert again.config == tiny_dit.config
    for name, value in tiny_dit.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.equal(again.positions, tiny_dit.positions)


def test_diffusers_reads_our_transformer_folder(tiny_dit, tmp_path):
    """from_pretrained of the written folder computes what our module computes."""
    from diffusers import DiTTransformer2DModel

    dit_layout.write_transformer(tmp_path, tiny_dit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = DiTTransformer2DModel.from_pretrained(tmp_path).eval()
    z, t, label = torch.randn(2, 4, 4, 4), torch.tensor([10, 900]), torch.tensor([1, 2])

    with torch.inference_mode():
        torch.testing.assert_close(
            twin(z, timestep=t, class_labels=label).sample, tiny_dit(z, t, label), rtol=0, atol=1e-5
        )


def broken(tiny_dit, directory, change):
    dit_layout.write_transformer(directory, tiny_dit)
    state = dit_layout.to_diffusers(tiny_dit.state_dict(), 2)
    change(state)
    from ims3core.base import files

    files.write_tensors(directory / dit_layout.WEIGHTS, state)
    return directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("proj_out_1.bias"), r"key proj_out_1\.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected key extra"),
        (
            lambda s: s["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"].add_(1),
            r"transformer_blocks\.1\.norm1.* differs from block 0",
        ),
        (lambda s: s.update({"proj_out_2.bias": torch.zeros(3)}), r"linear_out\.bias has shape \(3,\)"),
    ],
    ids=["missing", "left-over", "copies-differ", "shape"],
)
def test_weights_that_are_not_this_dit_are_refused(tiny_dit, tmp_path, change, message):
    """The error names the key that is wrong."""
    with pytest.raises(ArtifactError, match=message):
        dit_layout.read_transformer(broken(tiny_dit, tmp_path, change))


def test_a_truncated_weights_file_is_named(tiny_dit, tmp_path):
    """Half a safetensors file is refused with its path."""
    dit_layout.write_transformer(tmp_path, tiny_dit)
    path = tmp_path / dit_layout.WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(ArtifactError, match=dit_layout.WEIGHTS):
        dit_layout.read_transformer(tmp_path)


def test_another_architecture_is_refused(tiny_dit, tmp_path):
    """A config without learned variance is not accepted as a DiT."""
    dit_layout.write_transformer(tmp_path, tiny_dit)
    path = tmp_path / dit_layout.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"out_channels": 4}))

    with pytest.raises(ArtifactError, match="out_channels is 4, wanted 8"):
        dit_layout.read_transformer(tmp_path)


def test_a_fresh_network_predicts_zero_and_depends_on_its_seed_only():
    """adaLN-Zero starts with zero output; the same generator gives the same weights."""
    networks = []
    for _ in range(2):
        network = DiT(DitConfig(channels=4, side=4, patch=2, width=16, depth=2, heads=2, classes=3))
        initialise(network, torch.Generator().manual_seed(5))
        networks.append(network)

    output = networks[0](torch.randn(2, 4, 4, 4), torch.tensor([1, 2]), torch.tensor([0, 1]))

    assert output.abs().max() == 0
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))
    assert networks[0].blocks[0].mlp_in.weight.std() > 0.1


def test_gradient_checkpointing_changes_no_gradient(tiny_dit):
    """Recomputing blocks in the backward pass gives the same gradients."""
    gradients = []
    for flag in (False, True):
        tiny_dit.checkpoint_blocks = flag
        tiny_dit.zero_grad()
        stream = torch.Generator().manual_seed(0)
        tiny_dit(
            torch.randn(2, 4, 4, 4, generator=stream), torch.tensor([5, 6]), torch.tensor([0, 1])
        ).square().sum().backward()
        gradients.append([p.grad.clone() for p in tiny_dit.parameters()])

    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_the_full_size_model_has_the_published_sizes():
    """DiT-XL/2 has 28 blocks of width 1152 and about 675 million weights (meta device: nothing is allocated)."""
    with torch.device("meta"):
        network = DiT(DitConfig(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000))

    assert sum(p.numel() for p in network.parameters()) == 674_834_720
