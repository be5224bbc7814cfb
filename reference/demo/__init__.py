"""`blackstart demo`: the promise, shown on real sockets, real TLS, real pulls and real processes, judged from outside."""
