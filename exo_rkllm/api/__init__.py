"""What the daemon says over HTTP: OpenAI's, Anthropic's and Ollama's languages, its own status, and the page.

A request passes `application` (identity, rights, body, errors) and reaches a handler of its language's package. There
`tables` says what is accepted, `translate` turns it into a GenerationRequest and answers into values, and `stream`
encodes pieces as they come. `streaming` carries answers to the client and holds what happens when one leaves;
`leniency` decides what becomes of settings that an engine does not take. The control socket has a package, too.
"""
