"""librkllmrt, the vendor's closed library: find it, tell its version, speak its ABI, understand what it prints."""
