"""Sources: where the samples are. A folder, a manifest, tar shards, or paths on standard input."""
