"""Networks: their weights, their stages of training, and the classifier around them."""
