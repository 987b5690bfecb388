"""Deformable convolution side by side with every peer that is installed: see README.md."""
