"""What a data set gives away beside its images, and the card that says so."""
