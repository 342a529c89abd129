"""Who runs which slice of a store's units: this process, several, or a plug-in's cluster."""
