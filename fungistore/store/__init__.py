"""The staged feature store on disk."""
