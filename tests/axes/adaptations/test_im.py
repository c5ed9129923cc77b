"""Inversion-Matching: both forms of the matching term, what they share, and where their gradients flow."""

import pytest
import torch
from pydantic import ValidationError

from ims3core.axes.adaptations.diffusion import Diffusion
from ims3core.axes.adaptations.im import InversionMatching, spread
from ims3core.axes.adaptations.none import NoAdaptation
from ims3core.diffusion import batches, difffit, inversion, losses, training
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.schedule import linear_schedule

SCHEDULE = linear_schedule()
PAPER = {
    "lambda_im": 0.5, "form": "paper", "similarity": "cosine", "inversion_steps": 2, "pairing": "matched",
    "grad_through": "inversion", "share": 1.0, "clip_x0": False,
}  # fmt: skip


@pytest.fixture
def latents():
    stream = torch.Generator().manual_seed(7)
    mean = torch.randn(2, 10, 4, 4, 4, generator=stream)
    return Latents(mean, torch.full_like(mean, 0.1), torch.arange(10) % 3)


def terms_of(network, batch, **changes):
    return InversionMatching(**PAPER | changes).objective(variational=False)(network, SCHEDULE, batch)


def test_the_paper_form_sends_gradients_through_the_inversion(tiny_dit, latents):
    """D3: the matching term has a gradient of its own, and z_t contributes none."""
    batch = batches.draw_batch(latents, SCHEDULE, step=0, batch_size=4, label_dropout=0.0, null_label=3, seed=0)
    weights = difffit.freeze_all_but_difffit(tiny_dit)

    terms = terms_of(tiny_dit, batch)
    norms = {name: training.norm(training.gradient(term, list(weights.values()))) for name, term in terms.items()}

    assert set(terms) == {"diffusion", "im"}
    assert norms["im"] > 0
    half = terms_of(tiny_dit, batch, lambda_im=0.25)
    assert half["im"].item() == pytest.approx(terms["im"].item() / 2)


def test_the_paper_form_compares_the_same_timestep(tiny_dit, latents, monkeypatch):
    """If the inversion arrived at z_t itself, the matching term would be 0: same image, same t (Eq. 5)."""
    from ims3core.diffusion.schedule import add_noise, at

    batch = batches.draw_batch(latents, SCHEDULE, step=0, batch_size=4, label_dropout=0.0, null_label=3, seed=0)
    exact = add_noise(SCHEDULE, batch.z0, batch.eps, batch.t)
    there = (exact, batch.t, at(SCHEDULE.alpha_bar, batch.t, exact))  # a last step from t to t changes nothing
    monkeypatch.setattr(inversion, "walk", lambda *a, **k: there)

    terms = terms_of(tiny_dit, batch, inversion_steps=2)

    assert terms["im"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("through", ["inversion", "last_step"])
def test_the_shared_call_changes_nothing(tiny_dit, latents, steps, through):
    """Terms and gradients equal those of L_diff and the inversion asked one after the other."""
    batch = batches.draw_batch(latents, SCHEDULE, step=2, batch_size=6, label_dropout=0.3, null_label=3, seed=0)
    weights = list(difffit.freeze_all_but_difffit(tiny_dit).values())

    terms = terms_of(tiny_dit, batch, inversion_steps=steps, grad_through=through, lambda_im=1.0)
    z_t, _, expected = losses.predict_noise(tiny_dit, SCHEDULE, batch, variational=False)
    inverted = inversion.invert(
        tiny_dit, SCHEDULE, batch.z0, batch.t, batch.label, steps=steps, through_all_steps=through == "inversion"
    )
    expected["im"] = torch.stack([losses.cosine_distance(inverted[i : i + 1], z_t[i : i + 1]) for i in range(6)]).mean()

    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term, rtol=1e-4, atol=1e-6)
        for a, b in zip(*(training.gradient(value, weights) for value in (terms[name], term)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_a_share_of_the_batch_keeps_the_expectation(tiny_dit, latents, form):
    """The terms of a half, averaged over the batch and the batch turned by one row, are those of the whole."""
    changes = {"form": form, "grad_through": "inversion" if form == "paper" else "denoiser", "lambda_im": 1.0}
    batch = batches.draw_batch(latents, SCHEDULE, step=2, batch_size=6, label_dropout=0.3, null_label=3, seed=0)
    turned = batches.Batch(*(tensor.roll(1, 0) for tensor in batch.__dict__.values()))

    whole = terms_of(tiny_dit, batch, **changes)
    halves = [terms_of(tiny_dit, part, **changes, share=0.5) for part in (batch, turned)]

    torch.testing.assert_close(sum(half["im"] for half in halves) / 2, whole["im"], rtol=1e-4, atol=0)
    for half in halves:
        torch.testing.assert_close(half["diffusion"], whole["diffusion"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(("count", "share", "rows"), [(8, 0.25, [3, 7]), (8, 1.0, list(range(8))), (3, 0.1, [0])])
def test_a_share_is_evenly_spread(count, share, rows):
    """So that slices of a batch together hold the share of the whole; never empty."""
    assert spread(count, share) == rows


def test_the_official_form_trains_through_the_denoiser(tiny_dit, latents):
    """Its matching term has a gradient although the inversion runs without one."""
    batch = batches.draw_batch(latents, SCHEDULE, step=1, batch_size=4, label_dropout=0.1, null_label=3, seed=0)
    official = {"form": "official", "pairing": "all", "grad_through": "denoiser", "clip_x0": True}
    weights = difffit.freeze_all_but_difffit(tiny_dit)

    terms = terms_of(tiny_dit, batch, **official)

    assert training.norm(training.gradient(terms["im"], list(weights.values()))) > 0


def test_lambda_zero_is_plain_diffusion(tiny_dit, latents):
    """No matching term, no network call for it."""
    batch = batches.draw_batch(latents, SCHEDULE, step=0, batch_size=4, label_dropout=0.0, null_label=3, seed=0)

    terms = terms_of(tiny_dit, batch, lambda_im=0.0)

    assert set(terms) == {"diffusion"}


@pytest.mark.parametrize(("form", "through"), [("paper", "denoiser"), ("official", "inversion")])
def test_a_form_without_gradient_is_refused(form, through):
    """The paper's form has none in the denoiser, the official one none in the inversion (D3)."""
    with pytest.raises(ValidationError, match=f"grad_through '{through}' gives form '{form}' no gradient; allowed"):
        InversionMatching(**PAPER | {"form": form, "grad_through": through})


def test_passes_count_the_calls_of_the_network():
    """Forward and back of the plain step, and of a share of the batch those of the inversion."""
    im = InversionMatching(**PAPER | {"inversion_steps": 4, "share": 0.25})
    assert im.passes() == 2 + 0.25 * 2 * 4
    assert InversionMatching(**im.model_dump() | {"grad_through": "last_step"}).passes() == 2 + 0.25 * 5
    assert (Diffusion().passes(), NoAdaptation().passes()) == (2.0, 0.0)


def test_no_adaptation_has_nothing_to_train():
    """And says so when it is asked."""
    assert InversionMatching.trains and not NoAdaptation.trains
    with pytest.raises(NotImplementedError, match="trains nothing"):
        NoAdaptation().objective(variational=True)
