"""What image files say of themselves, beside each prediction: `predict evidence=true`."""
