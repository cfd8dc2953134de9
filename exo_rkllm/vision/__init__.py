"""Pictures on their way to a language model: decoded in a child, encoded on the NPU, and kept by hash."""
