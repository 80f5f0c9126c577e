"""Programs that a measurement runs beside itself, each a `tests.bench.child.Child`."""
