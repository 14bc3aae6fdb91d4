"""What the terminal shows and hears."""
