"""What a pipeline would cost on other machines."""
