"""What report is made of: saved records and Results, found, ordered and laid out, without a network."""
