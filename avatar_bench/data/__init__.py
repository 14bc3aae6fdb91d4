"""Everything between files of pictures and batches of tensors."""
