"""The pass of one batch through the steps of a plan."""
