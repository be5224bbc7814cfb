"""What is asked of every broker. A broker that does not do something says so, and is held to that, too."""
