"""A strict stand-in for exo's master and API, and the tests that join it."""
