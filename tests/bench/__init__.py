"""How fast the store is, each figure beside its floor: ``python -m tests.bench``.

The floor is the least that any program doing the same has to pay (reactivex alone, plain
sqlite3, a gRPC server that stores nothing), measured in the same run, taking turns with ours.
"""
