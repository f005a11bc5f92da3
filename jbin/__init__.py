"""jbin: train, measure and ship neural networks of 1 to 8 bits in JAX."""
