"""What the daemon says over HTTP: OpenAI's, Anthropic's and Ollama's languages, its own status, and the page."""
