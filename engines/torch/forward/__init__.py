"""The forward passes of the torch engine; `launcher` chooses one for a model and a device."""
