"""Laws of scoring that a person can wait for: the same figures for less work, and what is said meanwhile."""

import pytest
import torch

from emgen.models import convolutional


@pytest.mark.parametrize("event_shape", [(1, 28, 28), (3, 10, 6), (5, 8, 8)])
def test_a_decoder_that_only_scores_gives_what_it_gives_in_training(event_shape):
    torch.manual_seed(0)
    decoder = convolutional(event_shape, latent=3, channels=(4, 6)).double().decoder
    z = torch.randn(2, 4, 3).double()

    trained = decoder(z).base_dist.logits.detach()
    with torch.no_grad():
        scored = decoder(z).base_dist.logits

    assert scored.shape == (2, 4, *event_shape)
    torch.testing.assert_close(scored, trained, rtol=1e-12, atol=1e-12)
