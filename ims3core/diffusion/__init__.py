"""The diffusion model: schedule, transformer, samplers, inversion, losses, fine-tuning."""
