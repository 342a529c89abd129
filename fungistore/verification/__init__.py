"""Is a store what its records say? `verify_store` reads all of it, `repair_store` mends it."""
