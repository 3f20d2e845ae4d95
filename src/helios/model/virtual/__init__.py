"""Virtual ranks: the parts of a model's session that make results independent of processes."""
