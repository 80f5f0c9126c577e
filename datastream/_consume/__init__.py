"""The parts of `datastream.consume`."""
