"""The backends that come with the library, one package each; none imports another."""
