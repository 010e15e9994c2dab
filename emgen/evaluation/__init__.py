"""What a trained model is worth: likelihoods, samples, and many runs side by side."""
