"""From a list of methods to the data of a plan, or to every fault at once."""
