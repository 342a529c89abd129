"""Sources: where the images are. A folder, a manifest, tar shards, or paths on standard input."""
