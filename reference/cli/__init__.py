"""The console command `blackstart`."""
