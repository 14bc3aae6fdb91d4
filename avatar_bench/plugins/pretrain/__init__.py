"""Self-supervised pretraining of backbones."""
