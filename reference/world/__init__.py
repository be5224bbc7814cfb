"""The model world: a device that loses what a real power cut loses, and the explorer that cuts it everywhere. Pure."""
