"""What a data set gives away beside its pictures, and the card that says so."""
