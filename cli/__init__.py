"""The command line: every module parses, calls one library function, and prints."""
