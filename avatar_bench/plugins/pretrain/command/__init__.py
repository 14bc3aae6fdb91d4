"""Command of self-supervised pretraining."""
