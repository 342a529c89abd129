"""Files that hold many items, each of which is read by a key: Parquet, Arrow, arrays, pickles."""
