"""Estimators: beliefs over latents and parameters, Monte Carlo and chain estimates."""
