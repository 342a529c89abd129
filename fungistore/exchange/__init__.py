"""Features from and to files that other programs use: .npy, Parquet and HDF5."""
