"""Eq. 12 on maps whose determinant is known."""

import math

import pytest
import torch

from ims3core.axes.diagnostics.instability import Instability
from ims3core.diffusion.schedule import linear_schedule


def linear(matrix):
    """A network whose noise is a linear map of the latent, whatever the timestep."""
    return lambda z, t, label: (matrix.to(z) @ z.flatten()).reshape(z.shape)


def slow_log_determinant(matrix, schedule, *, steps, level):
    """The steps' matrices multiplied out."""
    last, product, before = round(level * (len(schedule.alpha_bar) - 1)), torch.eye(len(matrix)).double(), 1.0
    for k in range(1, steps + 1):
        after = schedule.alpha_bar[last * k // steps].item()
        ratio = after / before
        factor = math.sqrt(1 - after) - math.sqrt(ratio * (1 - before))
        product = (math.sqrt(ratio) * torch.eye(len(matrix)).double() + factor * matrix) @ product
        before = after
    return math.log(abs(torch.det(product).item()))


@pytest.mark.parametrize(("steps", "level"), [(1, 0.5), (3, 0.8), (10, 1.0)])
def test_exact_on_a_linear_map(steps, level):
    """The determinant of the product of the steps' matrices."""
    torch.manual_seed(0)
    matrix, schedule = 0.3 * torch.randn(8, 8).double(), linear_schedule()
    z0, label = torch.randn(1, 2, 2, 2), torch.zeros(1, dtype=torch.long)
    instability = Instability(images=1, steps=steps, level=level)
    found = instability.log_determinant(linear(matrix), schedule, z0, label)
    assert found == pytest.approx(slow_log_determinant(matrix, schedule, steps=steps, level=level), abs=1e-5)


def test_standard_normal_data_are_not_stretched():
    """The best prediction of the noise in N(0, I) at alpha_bar is sqrt(1 - alpha_bar) z: the ODE stands still."""
    schedule = linear_schedule()

    def network(z, t, label):
        alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1, 1) if int(t) else torch.ones(1, 1, 1, 1)
        return ((1 - alpha_bar).sqrt() * z).float()

    z0, label = torch.randn(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    instability = Instability(images=2, steps=400, level=0.5)
    found = instability.measure(network, schedule, z0, label, torch.Generator().manual_seed(0))
    assert found["log_coefficient"] == pytest.approx([0, 0], abs=0.02) and found["dimension"] == [4.0, 4.0]


def test_coefficient_is_the_geometric_mean():
    """Noise that the network calls zero: every step scales by sqrt(ratio), the map to data by 1 / sqrt(alpha_bar_T)."""
    schedule = linear_schedule()
    found = Instability(images=3, steps=5, level=0.6).measure(
        lambda z, t, label: torch.zeros_like(z), schedule, torch.randn(4, 1, 3, 3), torch.zeros(4, dtype=torch.long),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    expected = -0.5 * math.log(schedule.alpha_bar[round(0.6 * 999)].item())
    assert found["log_coefficient"] == pytest.approx([expected] * 3, abs=1e-6)
    assert found["log_determinant"] == pytest.approx([9 * expected] * 3, abs=1e-5)
