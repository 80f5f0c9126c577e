"""Settings of the unit tests."""

from hypothesis import settings

# A busy machine stops a test for longer than an example may take.
settings.register_profile("datastream", deadline=None)
settings.load_profile("datastream")
