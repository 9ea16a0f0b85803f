"""What an author writes with: the base class, decorators, effects, kinds, events, batches and randomness."""
