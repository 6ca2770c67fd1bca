"""Running images through models: decoding, the registry, the pipeline, the engine. Knows no money, no database."""
