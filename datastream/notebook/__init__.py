"""How the library's objects show themselves in a notebook."""
