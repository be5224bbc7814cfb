"""What the house is held to: purity of core, the lock, the documents, the size of a room."""
