"""Detectors in the formats of timm and transformers, from folders or the Hugging Face hub."""
