"""What people use who do not program: pages made of predictions."""
