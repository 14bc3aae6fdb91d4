"""The Hugging Face hub: runs are pushed to it with a model card, and opened from it."""
