"""librknnrt, the vendor's library for encoders: find it, tell its version, speak its ABI, read `.rknn` files."""
