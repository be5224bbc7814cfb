"""The demo: that it passes, and that it fails when the updater is broken."""
