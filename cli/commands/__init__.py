"""One module a command: it calls one library function, and prints what it gave."""
