"""The model, the data and the plan of a run, from its config or from the user, and checks that they fit."""
