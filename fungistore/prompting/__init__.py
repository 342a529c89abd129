"""Examples for a language model: the nearest training rows of each query, as prompts, and asked."""
