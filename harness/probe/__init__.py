"""Is an engine the model that it says it is? Looks for every fault that servers and conversions are known for."""
