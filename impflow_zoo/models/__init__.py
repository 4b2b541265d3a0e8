"""End-user models: a config, an nflows `Flow` built from it, and files to load and save."""
