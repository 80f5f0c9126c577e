"""The backends that come with the library, one file each; none imports another."""
