"""Programs the integration tests run as other processes, and what talks to them."""
