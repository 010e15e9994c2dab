"""Networks with heads: priors, decoders, encoders and critics, whose forward pass builds a
distribution.
"""
