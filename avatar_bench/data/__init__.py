"""Everything between files of images and batches of tensors."""
