"""OCI image formats: digests, references, manifests, building an image from a folder, pushing it. No engine needed."""
