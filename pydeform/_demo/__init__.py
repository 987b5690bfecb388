"""What ``python -m pydeform`` shows: a lens corrected by one deformable convolution, verified."""
