"""The environments: one module for each cluster or launcher."""
