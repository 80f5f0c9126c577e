"""Random histories over every source, checked by a checker that does not know the library."""
