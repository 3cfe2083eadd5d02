"""What early exit of a trained network is worth: calibration, compute, thresholds, pictures."""
