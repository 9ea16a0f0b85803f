"""What happens to a batch and in a training loop, as the plan says."""
