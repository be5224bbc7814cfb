"""A local registry: push and pull of the OCI distribution specification 1.1, stored in a folder."""
