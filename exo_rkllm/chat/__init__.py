"""How to talk to a model: prompts from messages, and answers, thoughts and tool calls from its text."""
