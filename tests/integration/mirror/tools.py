"""What tests of mirrors ask of their stores."""


def values(store):
    """What it holds, without the places of mirrors."""
    return {k: v for k, v in store.items() if not k.startswith("_datastream/")}
