"""Closed forms: latent structure × exponential families, with exact posteriors, statistics that
add, and M-steps.
"""
