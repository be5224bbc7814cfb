"""Power cuts that are honest: a real device on a disk of its own, which loses what a real disk loses."""
