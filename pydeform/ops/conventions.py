"""Between the layouts of other libraries and those of this one, exactly."""
