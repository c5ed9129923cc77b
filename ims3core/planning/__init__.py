"""`ims3 plan`: the cost of a run before it starts."""
