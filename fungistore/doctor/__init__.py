"""Whether this machine, and a store on it, are fit for work: checks with a way to fix each."""
