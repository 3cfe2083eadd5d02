"""Data sources: from raw samples to deterministic batches."""
