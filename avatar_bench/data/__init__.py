"""Reading, splitting, decoding and batching of image datasets."""
