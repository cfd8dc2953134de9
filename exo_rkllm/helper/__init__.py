"""A process for what strangers wrote: chat templates and tokenizer files are computed where they can be killed."""
