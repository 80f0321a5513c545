"""The press: prints one report as terminal text, Markdown, HTML and LaTeX. It knows no verb, engine or store."""
