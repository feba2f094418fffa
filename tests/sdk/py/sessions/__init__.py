"""Sessions of the published Python SDK against a real Boxyard, one file a topic."""
