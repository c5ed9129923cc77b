"""The geometric mean instability coefficient of the map from noise to data, along inversions (paper Eq. 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ims3core.axes.diagnostics import GeneratorDiagnostic
from ims3core.base.schema import Count, Fraction

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.sampling import Network
    from ims3core.diffusion.schedule import Schedule


class Instability(GeneratorDiagnostic):
    """Exact for small latents, by the Jacobians of the steps of an inversion.

    The coefficient of the map F from noise to data is the geometric mean of its singular values, |det J_F|^(1/n). Along
    an inversion z_0 -> ... -> z_T, J_F is the inverse of the product of the steps' Jacobians, so that its logarithm is
    minus the sum of their log-determinants over n. Where data are noise themselves it is 0; where density is higher
    than the noise's it is negative, since |det J_F| = p_noise(z_T) / p_generated(z_0).
    """

    images: Count = Field(description="latents that are looked at, drawn without repetition")
    steps: Count = Field(description="Euler steps of the inversion, evenly spaced in time (Eq. 3)")
    level: Fraction = Field(description="share of the process that is inverted")

    def measure(
        self, network: Network, schedule: Schedule, latents: Tensor, label: Tensor, generator: torch.Generator
    ) -> dict[str, list[float]]:
        """Per image: the logarithm of the coefficient, the log-determinant it comes from, and the dimension."""
        import torch

        chosen = torch.randperm(len(latents), generator=generator)[: self.images]
        dimension = latents[0].numel()
        totals = [self.log_determinant(network, schedule, latents[[n]], label[[n]]) for n in chosen.tolist()]
        return {
            "log_coefficient": [-total / dimension for total in totals],
            "log_determinant": [-total for total in totals],
            "dimension": [float(dimension)] * len(totals),
        }

    def passes(self, values: int) -> float:
        """Every step goes forward twice, and back once for every row of its Jacobian."""
        return float(self.images * self.steps * (2 + values))

    def log_determinant(self, network: Network, schedule: Schedule, z0: Tensor, label: Tensor) -> float:
        """The log-determinant of the inversion of one latent (1, C, H, W).

        Exact: every step's Jacobian is made column by column and its determinant taken, O(steps n) network calls.
        """
        import torch

        from ims3core.diffusion.inversion import inversion_step
        from ims3core.diffusion.schedule import at

        last = round(self.level * (len(schedule.alpha_bar) - 1))
        z, tau, alpha_bar, total = z0.double(), 0, torch.ones(1, 1, 1, 1, dtype=torch.float64, device=z0.device), 0.0
        for k in range(1, self.steps + 1):
            t = torch.full((1,), tau, device=z0.device)
            tau = last * k // self.steps
            alpha_bar_next = at(schedule.alpha_bar, torch.full((1,), tau, device=z0.device), z)

            def step(flat: Tensor, t: Tensor = t, before: Tensor = alpha_bar, after: Tensor = alpha_bar_next) -> Tensor:
                image = flat.reshape(z0.shape)
                eps_hat = network(image.to(z0), t, label).double()[:, : z0.shape[1]]
                return inversion_step(image, eps_hat, before, after).flatten()

            jacobian = torch.autograd.functional.jacobian(step, z.flatten(), vectorize=True)
            total += torch.linalg.slogdet(jacobian.double()).logabsdet.item()
            z, alpha_bar = step(z.flatten()).reshape(z0.shape).detach(), alpha_bar_next
        return total
