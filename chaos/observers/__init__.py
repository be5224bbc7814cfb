"""What a run is seen by, each from outside: everything goes into the one history."""
