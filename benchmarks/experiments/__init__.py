"""Planted-field experiments: what was put into data is found again by gradient descent."""
