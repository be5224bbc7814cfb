"""The edge updater: one loop that observes, decides (`reference.core.update`), journals and acts."""
