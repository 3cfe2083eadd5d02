"""scpl-ray."""
