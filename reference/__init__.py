"""The reference implementation: the update service, the edge updater and all that they need to run."""
